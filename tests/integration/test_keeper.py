"""The keeper process on a real Redis: it renews, it tells, and it gives back when its worker dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.jobs import RenderState
from shared.keys import KEYS
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim
from shared.tickets import ticket_template
from tests.orders import POOL, submission
from tests.waiting import wait_until
from worker.leases import Leases

LEASE_S = 1.0


@pytest.fixture
def url(redis_of: Callable[[str], str]) -> str:
    return redis_of("valkey")


@pytest.fixture
def store(url: str) -> Iterator[RedisJobStore]:
    client = connect(url, patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


def config(url: str, max_render_s: float = 60.0) -> dict[str, object]:
    store = StoreConfig(ticket_template()).as_dict()
    return {
        "redis_url": url,
        "store": store,
        "slot": "slot",
        "lease_s": LEASE_S,
        "max_render_s": max_render_s,
        "log": ["INFO", "json"],
    }


@pytest.fixture
def leases(url: str) -> Iterator[Leases]:
    leases = Leases(config(url))
    yield leases
    leases.close()


def claim(store: RedisJobStore) -> Claim:
    taken = store.claim(POOL, "token", "slot", "worker", LEASE_S)
    assert taken is not None
    return taken


def test_a_held_render_keeps_its_lease(store: RedisJobStore, leases: Leases) -> None:
    job = store.submit(submission()).job
    taken = store.claim(POOL, "token", "slot", "worker", 60.0)
    assert taken is not None
    leases.hold(taken).progress(1)
    wait_until(lambda: store.get(job.id).images[0].render.step == 1)  # from here on it renews
    end = time.monotonic() + 3 * LEASE_S

    while time.monotonic() < end:
        assert store.reap().requeued == ()
        time.sleep(0.05)

    assert store.get(job.id).images[0].status is RenderState.running


def test_progress_reaches_the_record(store: RedisJobStore, leases: Leases) -> None:
    job = store.submit(submission()).job
    lease = leases.hold(claim(store))

    lease.progress(3)

    wait_until(lambda: store.get(job.id).images[0].render.step == 3)


def test_a_cancel_reaches_the_worker(store: RedisJobStore, leases: Leases) -> None:
    job = store.submit(submission()).job
    lease = leases.hold(claim(store))

    store.cancel(job.id)

    assert lease.canceled.wait(5)
    assert not lease.lost.is_set()


def test_a_lost_lease_reaches_the_worker(store: RedisJobStore, leases: Leases) -> None:
    store.submit(submission())
    taken = claim(store)
    lease = leases.hold(taken)

    store.release(taken.render_id, taken.token, lost=True)

    assert lease.lost.wait(5)


def test_a_dropped_render_is_not_renewed(store: RedisJobStore, leases: Leases) -> None:
    store.submit(submission())
    taken = claim(store)
    leases.hold(taken).drop()

    wait_until(lambda: store.reap().requeued == (taken.render_id,))


def test_what_is_still_held_at_the_end_is_given_back(store: RedisJobStore, url: str) -> None:
    job = store.submit(submission()).job
    leases = Leases(config(url))
    leases.hold(claim(store))

    leases.close()

    assert store.get(job.id).images[0].status is RenderState.queued


def test_another_keeper_takes_over_when_one_is_killed(store: RedisJobStore, leases: Leases) -> None:
    job = store.submit(submission()).job
    lease = leases.hold(claim(store))
    first = leases.pid

    os.kill(first, signal.SIGKILL)

    wait_until(lambda: leases.pid != first)
    lease.progress(2)
    wait_until(lambda: store.get(job.id).images[0].render.step == 2)
    assert not lease.lost.is_set()


def test_a_keeper_that_cannot_be_started_at_once_is_started_later(
    store: RedisJobStore, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.submit(submission()).job
    lease = leases.hold(claim(store))
    start, failures = subprocess.Popen, [OSError(errno.ENOMEM, "Cannot allocate memory")]

    def short_of_memory(*args: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return start(*args, **options)

    monkeypatch.setattr("worker.leases.subprocess.Popen", short_of_memory)
    first = leases.pid

    os.kill(first, signal.SIGKILL)

    wait_until(lambda: leases.pid != first)
    store.cancel(job.id)
    wait_until(lease.canceled.is_set)


def test_a_hung_render_is_no_longer_renewed(store: RedisJobStore, url: str) -> None:
    leases = Leases(config(url, max_render_s=0.2))
    store.submit(submission())
    taken = claim(store)
    lease = leases.hold(taken)

    wait_until(lambda: store.reap().requeued == (taken.render_id,))

    assert lease.lost.wait(5)
    leases.close()


WORKER = """
import json, sys, time
from worker.leases import Leases
from shared.store.values import Claim
leases = Leases(json.loads(sys.argv[1]))
leases.hold(Claim(sys.argv[2], "token", "", None, 1, False, (), "", 0, 0))
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_workers_render_is_given_back_long_before_its_lease_ends(
    store: RedisJobStore, url: str
) -> None:
    job = store.submit(submission()).job
    taken = store.claim(POOL, "token", "slot", "worker", 600.0)
    assert taken is not None
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, json.dumps({**config(url), "lease_s": 600.0}), taken.render_id],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"held\n"

    worker.kill()
    worker.wait()
    worker.stdout.close()

    wait_until(lambda: store.get(job.id).images[0].status is RenderState.queued, 5.0)
    assert store.get(job.id).images[0].render.losses == 1


# Ends between the two: Redis has executed the claim, and nobody was told what it got. Or, `late`,
# before Redis executed it: then it comes when the keeper has done what it could.
CLAIMANT = """
import json, os, signal, sys
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from worker.leases import Leases
config = json.loads(sys.argv[1])
store = RedisJobStore(connect(config["redis_url"], patience_s=2), StoreConfig(**config["store"]))
leases = Leases(config)
leases.expect("token")
if sys.argv[2] != "late":
    assert store.claim(sys.argv[3], "token", "slot", "worker", 600.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def end_while_claiming(url: str, when: str) -> None:
    command = [sys.executable, "-c", CLAIMANT, json.dumps(config(url)), when, POOL]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL


def test_a_claim_whose_worker_died_before_it_knew_is_given_back_long_before_its_lease_ends(
    store: RedisJobStore, url: str
) -> None:
    job = store.submit(submission()).job

    end_while_claiming(url, "executed")

    wait_until(lambda: store.get(job.id).images[0].status is RenderState.queued)
    assert store.get(job.id).images[0].render.losses == 1


def test_a_claim_that_comes_after_its_worker_died_gets_nothing(
    store: RedisJobStore, url: str
) -> None:
    job = store.submit(submission()).job
    client = connect(url, patience_s=2)

    end_while_claiming(url, "late")

    wait_until(lambda: client.exists(KEYS["token"] + "token"))
    assert store.claim(POOL, "token", "slot", "worker", 600.0) is None
    assert store.get(job.id).images[0].status is RenderState.queued
    client.close()


def test_a_keeper_that_takes_over_knows_what_is_being_claimed(
    store: RedisJobStore, url: str
) -> None:
    job = store.submit(submission()).job
    leases = Leases(config(url))
    leases.expect("token")
    first = leases.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: leases.pid != first)
    claim(store)

    leases.close("worker_lost")

    assert store.get(job.id).images[0].status is RenderState.queued
