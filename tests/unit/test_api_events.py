"""`GET /jobs/{id}/events`: what a client is told, in which order, and when the stream ends."""

import asyncio

import pytest

from tests.api_kit import Farm
from tests.streams import calling

FOX = {"prompt": "a red fox", "seed": 42, "steps": 4}


@pytest.fixture
def farm():
    return Farm()


def order(farm, **fields):
    return farm.client().post("/jobs", json=FOX | fields).json()


def test_a_stream_opens_with_the_job_and_tells_it_to_the_end(farm):
    job = order(farm, n=2)

    async def follow():
        async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
            await call.until(lambda c: c.types() == ["job.snapshot"])
            first = farm.claim()
            await call.until(lambda c: "image.running" in c.types())
            farm.finish(first)
            farm.render()
            await call.end()
            return call

    call = asyncio.run(follow())
    assert call.status == 200
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (call.headers["cache-control"], call.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert call.headers["x-job-id"] == job["id"]
    assert call.body.startswith(b"retry: 2000\n\n")
    stored = [told for told in call.told() if told.id]
    assert [told.type for told in stored] == [
        "job.snapshot", "job.running", "image.running", "image.succeeded", "image.running",
        "image.succeeded", "job.succeeded",
    ]  # fmt: skip
    assert [int(told.id.split("-")[0]) for told in stored] == list(range(1, 8))
    assert stored[0].data["status"] == "queued"
    assert stored[3].data["url"].startswith("http://farm.test/files/")
    assert stored[-1].data == farm.client().get(f"/jobs/{job['id']}").json()
