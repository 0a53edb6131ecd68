"""The courier as a process of its own on a real Redis: killed, restarted, and with Redis killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.embedded import EmbeddedRedis
from deploy.tether import tethered
from shared.settings import Settings
from shared.store import open_store
from shared.store.outbox import Delivered
from shared.store.port import JobStore
from tests.hooks import ended, hooked, take
from tests.receiver import Receiver, receiving
from tests.waiting import wait_until

CODE = """
from threading import Event
from shared.settings import load_settings
from shared.store import open_store
from worker.webhooks import Courier
settings = load_settings()
Courier.of(settings, open_store(settings), lease_s=1.0).start()
Event().wait()
"""
Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(redis: EmbeddedRedis) -> JobStore:
    return open_store(Settings(redis_url=redis.url))


@pytest.fixture
def courier(redis: EmbeddedRedis) -> Iterator[Start]:
    """Starts one more courier; all of them end with the test."""
    env = {**os.environ, "FARM_REDIS_URL": redis.url, "FARM_WEBHOOK_ALLOW_HOSTS": "127.0.0.1"}
    with ExitStack() as stack:

        def start() -> subprocess.Popen[bytes]:
            process = subprocess.Popen(tethered([sys.executable, "-c", CODE]), env=env)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield start


def one(store: JobStore, job_id: str) -> Delivered:
    (delivery,) = store.deliveries(job_id)
    return delivery


def test_a_courier_killed_in_the_middle_is_replaced_and_the_message_is_the_same(
    store: JobStore, receiver: Receiver, courier: Start
) -> None:
    receiver.hold.clear()
    job_id = ended(store, hooked(receiver.url))
    first = courier()
    wait_until(lambda: receiver.got, 30)

    first.send_signal(signal.SIGKILL)
    first.wait()
    courier()
    wait_until(lambda: len(receiver.got) == 2, 30)
    receiver.hold.set()

    wait_until(lambda: one(store, job_id).state == "delivered")
    (headers, body), (again, same) = receiver.got
    assert headers["webhook-id"] == again["webhook-id"]
    assert body == same
    assert one(store, job_id).tries == 1  # nobody heard what became of the first


def test_two_processes_deliver_each_once(
    store: JobStore, receiver: Receiver, courier: Start
) -> None:
    jobs = [ended(store, hooked(receiver.url, seed=seed)) for seed in range(60)]
    courier()
    courier()

    wait_until(lambda: all(one(store, job).state == "delivered" for job in jobs), 30)

    assert len(receiver.ids) == len(set(receiver.ids)) == 60


def test_what_waits_outlives_redis(
    store: JobStore, redis: EmbeddedRedis, receiver: Receiver, courier: Start
) -> None:
    jobs = [ended(store, hooked(receiver.url, seed=seed)) for seed in range(5)]
    assert redis.pid
    os.kill(redis.pid, signal.SIGKILL)
    wait_until(lambda: not redis.alive)
    redis.restart()

    courier()

    wait_until(lambda: all(one(store, job).state == "delivered" for job in jobs), 30)
    assert len(receiver.ids) == len(set(receiver.ids)) == 5


def test_deliveries_are_forgotten_with_their_job(redis: EmbeddedRedis) -> None:
    store = open_store(Settings(redis_url=redis.url, job_retention_s=60))
    job_id = ended(store, hooked(events=("job.running",)))
    client = store._redis  # type: ignore[attr-defined]

    lives_s = [client.ttl(f"farm:{kind}:{job_id}") for kind in ("job", "deliveries")]
    client.delete(f"farm:job:{job_id}", f"farm:deliveries:{job_id}")  # as when their time is over

    assert all(0 < seconds <= 60 for seconds in lives_s)
    assert store.outbox_stats().waiting == 1
    assert take(store) == []
    assert store.outbox_stats().waiting == 0
    assert client.keys("farm:lane*") + client.keys("farm:outbox*") == []
