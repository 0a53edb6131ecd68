"""`Prefer: wait=N`: the answer comes when the job is done, or the limit is over, or the client left."""

import asyncio
import time

import pytest

from api.live import Deaf
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from tests.api_kit import Farm
from tests.streams import calling, until

FOX = {"prompt": "a red fox", "seed": 42, "steps": 4}


@pytest.fixture
def farm():
    return Farm()


def order(farm, **fields):
    return farm.client().post("/jobs", json=FOX | fields).json()


def waiting(farm):
    return farm.app.state.farm.watch.watchers


def test_a_look_that_waits_is_answered_when_the_job_is_done(farm):
    job = order(farm, n=2)

    async def look():
        begun = time.monotonic()
        async with calling(farm.app, f"/jobs/{job['id']}", prefer="wait=30") as call:
            await until(lambda: waiting(farm) == 1)
            farm.render()
            assert not call.ended, "one of two images"
            farm.render()
            await call.end()
            assert time.monotonic() - begun < 5
            return call

    call = asyncio.run(look())
    assert (call.status, call.headers["preference-applied"]) == (200, "wait=30")
    assert b'"status":"succeeded"' in call.body


def test_an_order_that_waits_is_a_200_with_the_pictures(farm):
    async def post():
        body = b'{"prompt": "a red fox", "steps": 4}'
        async with calling(farm.app, "/jobs", "POST", body=body, prefer="wait=30") as call:
            await until(lambda: waiting(farm) == 1)
            farm.render()
            await call.end()
            return call

    call = asyncio.run(post())
    assert (call.status, call.headers["preference-applied"]) == (200, "wait=30")
    assert call.headers["location"].endswith(call.headers["x-job-id"])


def test_a_retry_waits_too(farm):
    job = order(farm)
    farm.fail()

    async def retry():
        url = f"/jobs/{job['id']}/retry"
        async with calling(farm.app, url, "POST", prefer="wait=30") as call:
            await until(lambda: waiting(farm) == 1)
            farm.render()
            await call.end()
            return call

    assert asyncio.run(retry()).status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wait_that_is_over_answers_the_job_as_it_is(farm, method):
    job = order(farm)
    farm.claim()
    wait = {"Prefer": "wait=1"}

    if method == "GET":
        response = farm.client().get(f"/jobs/{job['id']}", headers=wait)
    else:
        response = farm.client().post("/jobs", json=FOX, headers=wait)

    assert response.status_code == (200 if method == "GET" else 202)
    assert response.json()["status"] == "running"
    assert response.headers["retry-after"]
    assert response.headers["preference-applied"] == "wait=1"


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("wait=0", "wait=0"),
        ("wait=20", "wait=20"),
        ("wait=999999", "wait=50"),
        ("respond-async, wait=5", "wait=5"),
        ('Wait="7"; x=1', "wait=7"),
        ("wait = 8", "wait=8"),
        ("respond-async", "respond-async"),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait", None),
        ("wait=99999999999999999999", None),
        ("return=minimal", None),
        ("", None),
    ],
)
def test_a_preference_is_read_as_far_as_it_can_be(farm, prefer, applied):
    order(farm)
    farm.render()

    response = farm.client().post("/jobs", json=FOX, headers={"Prefer": prefer})

    assert (response.status_code, response.headers.get("preference-applied")) == (200, applied)


def test_a_version_is_compared_after_the_wait(farm):
    job = order(farm)
    etag = farm.client().get(f"/jobs/{job['id']}").headers["etag"]

    async def look():
        headers = {"prefer": "wait=30", "if_none_match": etag}
        async with calling(farm.app, f"/jobs/{job['id']}", **headers) as call:
            await until(lambda: waiting(farm) == 1)
            farm.render()
            await call.end()
            return call.status

    assert asyncio.run(look()) == 200
    url = f"/jobs/{order(farm, seed=2)['id']}"
    etag = farm.client().get(url).headers["etag"]
    again = farm.client().get(url, headers={"Prefer": "wait=1", "If-None-Match": etag})
    assert (again.status_code, again.headers["preference-applied"]) == (304, "wait=1")


def test_a_client_that_leaves_ends_its_wait_and_not_its_job(farm):
    async def post():
        body = b'{"prompt": "a red fox"}'
        async with calling(farm.app, "/jobs", "POST", body=body, prefer="wait=30"):
            await until(lambda: waiting(farm) == 1)
        assert waiting(farm) == 0

    asyncio.run(post())
    assert farm.pending == 1


def test_a_process_that_leaves_answers_all_who_wait(farm):
    job = order(farm)

    async def look():
        async with calling(farm.app, f"/jobs/{job['id']}", prefer="wait=30") as call:
            await until(lambda: waiting(farm) == 1)
            farm.app.state.farm.watch.leave()
            await call.end()
        async with calling(farm.app, f"/jobs/{job['id']}", prefer="wait=30") as late:
            await late.end()
        return call.status, late.status

    assert asyncio.run(look()) == (200, 200)


def test_who_cannot_ask_elsewhere_is_kept_a_while_longer(farm, monkeypatch):
    job, watch = order(farm)["id"], farm.app.state.farm.watch

    async def leave(last_s):
        monkeypatch.setattr("api.watch.LAST_S", last_s)
        last = asyncio.create_task(watch.wait_done(job, 30, to_the_last=True))
        first = asyncio.create_task(watch.wait_done(job, 30))
        await until(lambda: waiting(farm) == 2)
        watch.leave()
        assert not (await first).done
        if last_s > 1:
            await asyncio.to_thread(farm.render)
        return (await last).done

    assert asyncio.run(leave(0.05)) is False
    monkeypatch.setattr(watch, "_leaving", False)
    monkeypatch.setattr(watch, "_gone", False)
    assert asyncio.run(leave(20)) is True


def test_waiting_is_counted_and_is_no_latency(farm):
    job = order(farm)

    async def look():
        async with calling(farm.app, f"/jobs/{job['id']}", prefer="wait=30"):
            await until(lambda: waiting(farm) == 1)
            return await asyncio.to_thread(lambda: farm.client().get("/metrics").text)

    assert "renderfarm_waiting_clients 1.0" in asyncio.run(look())
    assert "renderfarm_waiting_clients 0.0" in (after := farm.client().get("/metrics").text)
    assert 'http_requests_total{method="GET",route="/jobs/{job_id}"' in after
    assert 'request_seconds_count{method="GET",route="/jobs/{job_id}"' not in after


def test_two_loops_may_wait_at_once(farm):
    """A server has one event loop; a program that embeds the application may have more."""
    job = order(farm)

    async def look():
        async with calling(farm.app, f"/jobs/{job['id']}", prefer="wait=30") as call:
            await until(lambda: waiting(farm) == 2)
            await call.end()
            return call.status

    async def both():
        looks = [asyncio.to_thread(asyncio.run, look()) for _ in "ab"]
        rendering = asyncio.to_thread(_render_when, farm)
        return (await asyncio.gather(*looks, rendering))[:2]

    assert asyncio.run(both()) == [200, 200]
    assert farm.app.state.farm.watch._hubs == {}


def _render_when(farm):
    end = time.monotonic() + 10
    while waiting(farm) < 2:
        assert time.monotonic() < end
        time.sleep(0.005)
    farm.render()


class Flaky(MemoryJobStore):
    """A store that can be cut off."""

    away = False

    def get(self, job_id):
        if self.away:
            raise StoreUnavailable
        return super().get(job_id)

    def pulse(self, job_ids):
        if self.away:
            raise StoreUnavailable
        return super().pulse(job_ids)


def test_an_outage_of_the_store_is_waited_out(monkeypatch):
    monkeypatch.setattr("api.hub.TICK_S", 0.02)
    farm = Farm(store=Flaky())
    monkeypatch.setattr(farm.app.state.farm.watch, "_open_live", Deaf)
    job = order(farm)

    async def look():
        async with calling(farm.app, f"/jobs/{job['id']}", prefer="wait=30") as call:
            await until(lambda: waiting(farm) == 1)
            farm.render()
            farm.store.away = True
            await asyncio.sleep(0.1)
            assert not call.ended
            farm.store.away = False
            await call.end()
            return call

    call = asyncio.run(look())
    assert b'"status":"succeeded"' in call.body


def test_an_order_whose_wait_fails_is_still_answered_with_its_id(monkeypatch):
    farm = Farm(store=Flaky())

    async def post():
        body = b'{"prompt": "a red fox"}'
        async with calling(farm.app, "/jobs", "POST", body=body, prefer="wait=1") as call:
            await until(lambda: waiting(farm) == 1)
            farm.store.away = True
            await call.end()
            return call

    call = asyncio.run(post())
    assert (call.status, call.headers["location"][:22]) == (202, "http://farm.test/jobs/")


def test_the_limit_is_a_setting():
    farm = Farm(Settings(max_wait_s=0))
    job = order(farm)

    response = farm.client().get(f"/jobs/{job['id']}", headers={"Prefer": "wait=9"})

    assert response.headers["preference-applied"] == "wait=0"
