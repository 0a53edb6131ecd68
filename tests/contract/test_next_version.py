"""This version beside the next: it reads, claims, closes and cancels records with unknown fields."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from shared.jobs import RECORD_VERSION, JobStatus
from shared.keys import KEYS
from shared.results import names
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import WorkerStatus
from shared.tickets import ticket_template
from tests.contract.next_version import NEW, age, order_of_tomorrow, result_of_tomorrow
from tests.orders import POOL


@pytest.fixture
def client(redis_server: str) -> Iterator[redis.Redis]:
    with connect(redis_server, patience_s=2) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> RedisJobStore:
    return RedisJobStore(client, StoreConfig(ticket_template()))


def test_a_job_of_the_next_version_goes_its_whole_road(
    store: RedisJobStore, client: redis.Redis
) -> None:
    order = order_of_tomorrow()
    job, render = store.submit(order).job.id, order.orders[0].render_id
    age(client, job, render)

    assert store.get(job).version == RECORD_VERSION + 1
    taken = store.claim(POOL, "t1", "slot", "worker", 30.0)
    assert taken is not None
    assert taken.spec.unknown == set(NEW)
    assert store.renew({"t1": (render, 1)}, 30.0) == {"t1": "held"}
    assert store.release(render, "t1", lost=True)
    again = store.claim(POOL, "t2", "slot", "worker", 30.0)
    assert again is not None
    assert store.storing(render, "t2", 4)
    assert store.close(render, "t2", result_of_tomorrow(again.fingerprint, "t2"))

    assert store.get(job).status is JobStatus.succeeded
    assert client.hget(KEYS["job"] + job, "from_tomorrow") == "1"
    assert json.loads(str(client.hget(KEYS["job"] + job, "record")))["from_tomorrow"]
    kept = client.hgetall(KEYS["render"] + render)
    assert (kept["from_tomorrow"], kept["version"]) == ("2", str(RECORD_VERSION + 1))
    assert json.loads(kept["spec"])["from_tomorrow"] == NEW["from_tomorrow"]
    assert json.loads(kept["result"])["from_tomorrow"] == NEW["from_tomorrow"]


def test_a_job_of_the_next_version_can_be_canceled(
    store: RedisJobStore, client: redis.Redis
) -> None:
    order = order_of_tomorrow()
    job = store.submit(order).job.id
    age(client, job, order.orders[0].render_id)

    assert store.cancel(job).status is JobStatus.canceled
    assert client.hget(KEYS["job"] + job, "from_tomorrow") == "1"


def test_a_worker_of_the_next_version_is_seen(store: RedisJobStore) -> None:
    status = {"name": "w", "pool": POOL, "model": "tiny", "state": "ready"}

    store.heartbeat(WorkerStatus.model_validate({**status, **NEW}), 10.0)

    assert [worker.name for worker in store.workers()] == ["w"]


def test_every_record_says_its_version(store: RedisJobStore, client: redis.Redis) -> None:
    order = order_of_tomorrow()
    job = store.submit(order).job

    assert json.loads(str(client.hget(KEYS["job"] + job.id, "record")))["version"] == RECORD_VERSION
    assert job.images[0].render.version == RECORD_VERSION
    key = KEYS["render"] + order.orders[0].render_id
    assert client.hget(key, "version") == str(RECORD_VERSION)


def test_a_stored_result_keeps_what_the_next_version_wrote_into_it() -> None:
    given = result_of_tomorrow("0" * 64, "t1")

    read = names.decode(names.encode(given, {"prompt": "a fox"}), "0" * 64, "t1")

    assert read == given
    assert read is not None
    assert "details" not in read.model_dump()
