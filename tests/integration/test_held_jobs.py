"""A waiting client and the process that serves it: when that dies, its jobs do not stay behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from shared.jobs import RenderState
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.tickets import ticket_template
from tests.api_kit import worker
from tests.e2e.parts import Parts
from tests.orders import TINY
from tests.waiting import wait_until

ORDER = {"prompt": "a red fox", "n": 2, "size": "64x64"}


@pytest.fixture
def store(redis_of: Callable[[str], str]) -> RedisJobStore:
    client = connect(redis_of("valkey"), patience_s=2)
    return RedisJobStore(client, StoreConfig(ticket_template()))


def test_jobs_of_a_killed_api_process_are_canceled_where_they_are_queued(
    store: RedisJobStore, redis_of: Callable[[str], str], tmp_path: Path
) -> None:
    url = redis_of("valkey")
    with Parts(tmp_path / "farm", tmp_path / "models", url, FARM_CLIENT_GONE_S="1") as parts:
        parts.start("chores")
        api, address = parts.api()
        store.heartbeat(worker("ready", TINY), 120.0)

        def ask() -> None:
            with suppress(httpx2.TransportError):
                httpx2.post(f"{address}/v1/images/generations", json=ORDER, timeout=60)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: _pending(store) == 2, 20, "for the order")
        claimed = store.claim(TINY.pool, "t1", "slot", "worker-0", 120.0)
        assert claimed is not None

        later = time.monotonic() + 1.5  # its word holds for 1 s: the API renews it
        wait_until(lambda: _pending(store) != 1 or time.monotonic() > later, 5)
        assert _pending(store) == 1
        api.kill()
        wait_until(lambda: _pending(store) == 0, 20, "for the chores")
        asking.join(20)

        job = store.get(claimed.jobs[0])
        states = [image.status for image in job.images]
        assert states == [RenderState.running, RenderState.canceled]


def _pending(store: RedisJobStore) -> int:
    return sum(pool.pending for pool in store.stats().pools)
