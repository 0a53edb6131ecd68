"""Waits and streams on a real Redis: through outages, other processes, and clients that leave."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
import redis
from starlette.testclient import TestClient

from api.app import create_app
from api.live import RedisLive
from deploy.embedded import EmbeddedRedis
from shared.catalog import Catalog
from shared.keys import KEYS
from shared.settings import Settings
from shared.store import open_store
from shared.store.port import JobStore
from tests.api_kit import TINY, FakeResults, claim, finish
from tests.served import served, told
from tests.streams import Call, calling, until
from tests.waiting import wait_until

MODELS = Catalog([TINY], "tiny")
ORDER = {"prompt": "a red fox", "steps": 4, "size": "64x64"}


class Farm:
    """The application in this process, on a real store."""

    def __init__(self, url: str) -> None:
        settings = Settings(redis_url=url)
        self.results = FakeResults()
        self.store = open_store(settings)
        self.app = create_app(
            settings, self.store, self.results, MODELS, open_live=lambda: RedisLive(url)
        )

    @property
    def waiting(self) -> int:
        return int(self.app.state.farm.watch.watchers)

    def order(self, seed: int) -> str:
        """The id of a new job."""
        return str(TestClient(self.app).post("/jobs", json=ORDER | {"seed": seed}).json()["id"])

    def render(self) -> None:
        taken = claim(self.store)
        assert taken
        finish(self.store, self.results, taken)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path) as server:
        yield server


@pytest.fixture
def one_redis(redis_of: Callable[[str], str]) -> str:
    """One engine is enough where processes of the API are what is tried."""
    return redis_of("valkey")


def channels(url: str) -> list[str]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.pubsub_channels()  # type: ignore[no-any-return]


@pytest.fixture
def starter() -> Iterator[ThreadPoolExecutor]:
    """A thread that outlives the event loop: a server ends with the thread that started it."""
    with ThreadPoolExecutor(1) as starter:
        yield starter


def test_redis_is_killed_in_the_middle_and_everybody_hears_the_end(
    server: EmbeddedRedis, starter: ThreadPoolExecutor
) -> None:
    farm = Farm(server.url)
    jobs = [farm.order(seed) for seed in range(12)]

    async def wait() -> tuple[list[Call], list[list[str]]]:
        async with AsyncExitStack() as stack:
            looks = [
                await stack.enter_async_context(calling(farm.app, f"/jobs/{job}", prefer="wait=50"))
                for job in jobs
            ]
            streams = [asyncio.create_task(followed(farm, job)) for job in jobs]
            await until(lambda: farm.waiting == 2 * len(jobs))
            for _ in jobs[:4]:  # some end before, some while nobody is told, some after
                await asyncio.to_thread(farm.render)
            await asyncio.get_running_loop().run_in_executor(starter, _crash, server)
            for _ in jobs[4:8]:
                await asyncio.to_thread(farm.render)
            await until(lambda: len(channels(server.url)) == 4, "subscribed again")
            for _ in jobs[8:]:
                await asyncio.to_thread(farm.render)
            for look in looks:
                await look.end()
            async with asyncio.timeout(20):
                return looks, await asyncio.gather(*streams)

    looks, streams = asyncio.run(wait())
    for job, look, ids in zip(jobs, looks, streams, strict=True):
        assert (look.status, b'"status":"succeeded"' in look.body) == (200, True)
        events = farm.store.events(job, None)
        assert events
        assert ids == [event.id for event in events]
    assert farm.waiting == 0


async def followed(farm: Farm, job: str) -> list[str]:
    """Ids of all events, by a client that comes back as an EventSource does."""
    ids: list[str] = []
    while True:
        known = {"last_event_id": ids[-1]} if ids else {}
        async with calling(farm.app, f"/jobs/{job}/events", **known) as call:
            await call.until(lambda c: c.ended, limit_s=30)
            if call.status == 204:
                return ids
            ids += [each.id for each in call.told() if each.id] if call.status == 200 else []


def _crash(server: EmbeddedRedis) -> None:
    """kill -9, and a new server on what is on the disk."""
    assert server.pid
    process = server._process
    assert process
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.start()


def test_a_subscription_ends_with_who_wanted_it(redis_server: str) -> None:
    farm = Farm(redis_server)
    one, other = farm.order(1), farm.order(2)

    async def watch() -> None:
        async with calling(farm.app, f"/jobs/{one}/events"):
            async with calling(farm.app, f"/jobs/{one}", prefer="wait=30"):
                async with calling(farm.app, f"/jobs/{other}/events"):
                    await until(lambda: len(channels(redis_server)) == 2)
                await until(lambda: channels(redis_server) == [KEYS["live"] + one])
            await until(lambda: farm.waiting == 1)
            assert channels(redis_server) == [KEYS["live"] + one]
        await until(lambda: channels(redis_server) == [])

    asyncio.run(watch())


def test_a_user_without_channels_is_told_a_little_later(redis_server: str) -> None:
    with redis.Redis.from_url(redis_server) as admin:
        rights = [
            "reset",
            "on",
            ">pw",
            "~*",
            "resetchannels",
            "+@all",
            "-subscribe",
            "-pubsub",
            "-publish",
        ]
        admin.execute_command("ACL", "SETUSER", "mute", *rights)
    farm = Farm(f"redis://mute:pw@{redis_server.rpartition('@')[2]}")
    job = farm.order(1)

    async def watch() -> Call:
        async with calling(farm.app, f"/jobs/{job}/events") as call:
            await until(lambda: farm.waiting == 1)
            await asyncio.to_thread(farm.render)
            await call.end()
            return call

    assert asyncio.run(watch()).types()[-1] == "job.succeeded"


def test_a_stream_that_is_cut_goes_on_in_another_process(one_redis: str, tmp_path: Path) -> None:
    """Cut after every few events, each time resumed through the other process of two."""
    settings = Settings(redis_url=one_redis, data_dir=tmp_path, port=0, default_model="tiny")
    store, dice = open_store(settings), random.Random(1)
    with (
        served(settings, tmp_path / "one.log") as one,
        served(settings, tmp_path / "two.log") as two,
        httpx2.Client(timeout=20) as client,
    ):
        job = client.post(f"{one.url}/jobs", json=ORDER | {"n": 6}).json()["id"]
        pool = store.get(job).images[0].render.pool
        seen: list[str] = []
        done = False
        for turn in range(100):
            at = (one, two)[turn % 2]
            known = {"Last-Event-ID": seen[-1]} if seen else {}
            with client.stream("GET", f"{at.url}/jobs/{job}/events", headers=known) as stream:
                if stream.status_code == 204:
                    done = True
                    break
                for number, event in enumerate(told(stream)):
                    seen += [event.id] if event.id else []
                    if number >= dice.randrange(4):
                        break  # the connection is closed under the stream
                    _step(store, pool)
        events = store.events(job, None)

    assert done, seen
    assert events
    assert seen == [event.id for event in events]
    assert len(seen) == 2 + 2 * 6 + 1


def _step(store: JobStore, pool: str) -> None:
    taken = store.claim(pool, random.randbytes(8).hex(), "slot", "worker", 60.0)
    if taken:
        finish(store, FakeResults(), taken)


def test_a_leaving_process_closes_its_streams_and_its_waits_in_order(
    one_redis: str, tmp_path: Path
) -> None:
    settings = Settings(
        redis_url=one_redis, data_dir=tmp_path, port=0, default_model="tiny", api_drain_s=0.2
    )
    with served(settings, tmp_path / "api.log") as api, httpx2.Client(timeout=20) as client:
        job = client.post(f"{api.url}/jobs", json=ORDER).json()["id"]
        with client.stream("GET", f"{api.url}/jobs/{job}/events") as stream:
            events = told(stream)
            assert next(events).type == "job.snapshot"
            wait_until(lambda: channels(one_redis))
            api.process.terminate()
            rest = [event.type for event in events]  # raises if the stream is cut
        assert api.process.wait(10) in (0, -signal.SIGTERM)

    assert set(rest) <= {"job.position"}
    log = api.log.read_text()
    assert "Traceback" not in log
    assert "Cancel" not in log


def test_a_client_that_hangs_up_leaves_nothing_in_a_served_farm(
    one_redis: str, tmp_path: Path
) -> None:
    settings = Settings(redis_url=one_redis, data_dir=tmp_path, port=0, default_model="tiny")
    with served(settings, tmp_path / "api.log") as api, httpx2.Client(timeout=20) as client:
        job = client.post(f"{api.url}/jobs", json=ORDER).json()["id"]
        with client.stream("GET", f"{api.url}/jobs/{job}/events") as stream:
            events = told(stream)
            assert next(events).type == "job.snapshot"
            wait_until(lambda: channels(one_redis))
        with pytest.raises(httpx2.ReadTimeout):
            client.get(f"{api.url}/jobs/{job}", headers={"Prefer": "wait=40"}, timeout=0.3)

        wait_until(lambda: not channels(one_redis), what="for the subscriptions to end")
        assert "Traceback" not in api.log.read_text()
