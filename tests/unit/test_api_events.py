"""`GET /jobs/{id}/events`: what a client is told, in which order, and when the stream ends."""

import asyncio

import pytest

from api.live import Deaf
from shared.settings import Settings
from tests.api_kit import Farm, worker
from tests.streams import calling, until

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


def finished(farm, **fields):
    job = order(farm, **fields)
    farm.render()
    return farm.client().get(f"/jobs/{job['id']}").json()


def read(farm, url, key=None, **headers):
    """A stream that ends by itself, whole."""
    return farm.client(key).get(url, headers={k.replace("_", "-"): v for k, v in headers.items()})


def events_in(response):
    blocks = [block for block in response.text.split("\n\n") if "event: " in block]
    lines = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [(each["event"], each.get("id")) for each in lines]


def test_the_stream_of_a_finished_job_is_its_snapshot_and_its_end(farm):
    job = finished(farm)

    response = read(farm, f"/jobs/{job['id']}/events")

    [(name, last)] = events_in(response)
    assert (response.status_code, name) == (200, "job.snapshot")
    assert read(farm, f"/jobs/{job['id']}/events", last_event_id=last).status_code == 204


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_who_comes_back_gets_what_is_later_and_nothing_twice(farm, how):
    job = finished(farm)
    stored = [e.id for e in farm.store.events(job["id"], None)]

    for number, known in enumerate(stored[:-1], 1):
        query = f"?after={known if how == 'query' else stored[0]}" if how != "header" else ""
        headers = {} if how == "query" else {"last_event_id": known}
        response = read(farm, f"/jobs/{job['id']}/events{query}", **headers)
        assert [id for _, id in events_in(response)] == stored[number:]


@pytest.mark.parametrize("unknown", ["1-1", "99-1767610800000", "x", "-", "0-0", "1" * 4000])
def test_an_event_that_is_not_known_opens_with_the_snapshot(farm, unknown):
    job = finished(farm)

    response = read(farm, f"/jobs/{job['id']}/events", last_event_id=unknown)

    assert [name for name, _ in events_in(response)] == ["job.snapshot"]


@pytest.mark.parametrize(
    ("accept", "status"),
    [("text/event-stream", 200), ("*/*", 200), ("text/*", 200), ("application/json", 406),
     ("text/event-stream;q=0, */*", 406)],
)  # fmt: skip
def test_a_stream_is_given_to_who_can_read_one(farm, accept, status):
    job = finished(farm)

    response = read(farm, f"/jobs/{job['id']}/events", accept=accept)

    assert response.status_code == status
    if status == 406:
        assert response.json()["error"]["code"] == "not_acceptable"


def test_head_says_what_a_get_would_be_and_ends(farm):
    job = order(farm)

    response = farm.client().head(f"/v1/jobs/{job['id']}/events")

    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")


def test_the_signed_url_opens_the_stream_without_a_key():
    farm = Farm(Settings(api_keys="alice:alice-key bob:bob-key"))
    job = farm.client("alice-key").post("/v1/jobs", json=FOX).json()
    farm.render()
    url = job["urls"]["events"]
    assert url.startswith(f"http://farm.test/v1/jobs/{job['id']}/events?exp=")

    assert read(farm, url).status_code == 200
    assert read(farm, url, key="bob-key").status_code == 404, "a key speaks before a signature"
    assert read(farm, url.partition("?")[0]).status_code == 401
    assert read(farm, url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 401
    assert read(farm, url.replace("/events?", "?")).status_code == 401, "it opens nothing else"


def test_a_job_that_is_not_there_has_no_stream(farm):
    assert read(farm, "/jobs/job_nothing/events").json()["error"]["code"] == "job_not_found"
    assert read(farm, "/jobs/job_00000000000000000000000000/events").status_code == 410


def test_steps_and_previews_pass_and_are_not_told_again(farm):
    job = order(farm, partial_images=1)

    async def follow():
        async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
            await until(lambda: farm.app.state.farm.watch.watchers == 1)
            await until(lambda: farm.store._ledger.history.listeners)
            claimed = farm.claim()
            for step in (1, 2, 3):
                farm.store.renew({claimed.token: (claimed.render_id, step)}, 60.0)
            farm.store.preview(claimed.render_id, claimed.token, 0, b"half")
            await call.until(lambda c: "image.preview" in c.types())
            farm.finish(claimed)
            await call.end()
            return call

    call = asyncio.run(follow())
    passing = {told.type: told.data for told in call.told() if told.id is None}
    assert passing["image.progress"] == {"index": 0, "step": 1, "steps": 4}, "one word a second"
    assert call.types().count("image.progress") == 1
    assert passing["image.preview"] == {
        "index": 0, "partial_image_index": 0, "b64_json": "aGFsZg==",
    }  # fmt: skip


def test_the_place_in_the_queue_is_told_as_it_changes(farm, monkeypatch):
    monkeypatch.setattr("api.hub.TICK_S", 0.02)
    farm.store.heartbeat(worker("busy"), 60.0)
    order(farm, seed=1)
    job = order(farm, seed=2)

    async def follow():
        async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
            await call.until(lambda c: "job.position" in c.types())
            farm.finish(farm.claim(), device_s=4.0)
            await call.until(lambda c: c.types().count("job.position") == 2)
            return call

    places = [told.data for told in asyncio.run(follow()).told() if told.type == "job.position"]
    assert [place["position"] for place in places] == [1, 0]
    assert places[0]["eta_s"] is None, "nothing was measured yet"
    assert places[1]["eta_s"] == 6.0, "half of the one that runs, and its own: each takes 4 s"


def test_a_quiet_stream_is_pinged(farm, monkeypatch):
    monkeypatch.setattr("api.hub.TICK_S", 0.02)
    monkeypatch.setattr("api.hub.PING_S", 0.05)
    job = order(farm)

    async def follow():
        async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
            await call.until(lambda c: c.body.count(b": ping\n\n") == 2)

    asyncio.run(follow())


def test_a_client_that_leaves_leaves_nothing_behind(farm):
    job = order(farm)
    watch = farm.app.state.farm.watch

    async def follow():
        before = len(asyncio.all_tasks())
        for _ in range(3):
            async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
                await until(lambda: watch.watchers == 1)
                assert call.types() == ["job.snapshot"]
        assert watch.watchers == 0
        assert len(asyncio.all_tasks()) - before <= 3, "the hub's own"
        farm.render()
        assert watch.watchers == 0

    asyncio.run(follow())
    assert not farm.store._ledger.history.listeners


def test_a_process_that_leaves_ends_its_streams_in_order(farm):
    job = order(farm)

    async def follow():
        async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
            await call.until(lambda c: c.types() == ["job.snapshot"])
            farm.app.state.farm.watch.leave()
            await call.end()
            return call

    call = asyncio.run(follow())
    assert "job.succeeded" not in call.types()


def test_a_job_that_is_deleted_ends_its_stream(farm, monkeypatch):
    monkeypatch.setattr("api.hub.TICK_S", 0.02)
    job = order(farm)

    async def follow():
        async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
            await call.until(lambda c: c.types() == ["job.snapshot"])
            del farm.store._ledger.jobs[job["id"]]
            await call.end()

    asyncio.run(follow())


def test_what_the_subscription_missed_is_read_from_the_store(farm, monkeypatch):
    monkeypatch.setattr("api.hub.TICK_S", 0.02)
    monkeypatch.setattr(farm.app.state.farm.watch, "_open_live", Deaf)
    job = order(farm)

    async def follow():
        async with calling(farm.app, f"/jobs/{job['id']}/events") as call:
            await call.until(lambda c: c.types() == ["job.snapshot", "job.position"])
            farm.render()
            await call.end()
            return call

    ids = [told.id for told in asyncio.run(follow()).told() if told.id]
    assert ids == [e.id for e in farm.store.events(job["id"], None)]
