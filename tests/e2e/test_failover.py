"""A real failover: a primary, a replica, three sentinels, and a farm that works through it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
import redis

from shared.settings import Settings
from shared.store import open_store
from tests.e2e.parts import Parts
from tests.orders import submission
from tests.servers.nodes import Node
from tests.waiting import wait_until

ORDER = {"size": "64x64", "steps": 4, "prompt": "a lighthouse at dusk"}
LOGIN = ("requirepass secret", "masterauth secret")
DURABLE = ("appendonly yes", "appendfsync always", "repl-diskless-sync-delay 0")


class Guarded:
    """Two servers and three sentinels that watch them; both servers want a password."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.primary = stack.enter_context(Node(folder / "one", *LOGIN, *DURABLE))
        follow = f"replicaof 127.0.0.1 {self.primary.port}"
        self.replica = stack.enter_context(Node(folder / "two", *LOGIN, *DURABLE, follow))
        wait_until(self._replicates, 20, "for the replica")
        watch = (
            f"sentinel monitor queue 127.0.0.1 {self.primary.port} 2",
            "sentinel auth-pass queue secret",
            "sentinel down-after-milliseconds queue 1000",
            "sentinel failover-timeout queue 5000",
        )
        self.sentinels = [
            stack.enter_context(Node(folder / f"s{k}", *watch, sentinel=True)) for k in range(3)
        ]
        wait_until(lambda: all(map(self._sees_all, self.sentinels)), 30, "for the sentinels")

    @property
    def url(self) -> str:
        places = ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels)
        return f"redis+sentinel://:secret@{places}/queue/0"

    def primary_client(self) -> redis.Redis:
        return redis.Redis(port=self.primary.port, password="secret", decode_responses=True)

    def _replicates(self) -> bool:
        try:
            with redis.Redis(port=self.replica.port, password="secret") as client:
                return client.info("replication")["master_link_status"] == "up"
        except redis.RedisError:
            return False

    def _sees_all(self, sentinel: Node) -> bool:
        try:
            with sentinel.client() as client:
                seen = client.sentinel_master("queue")
        except redis.RedisError:
            return False
        return bool(seen["num-other-sentinels"] == 2 and seen["num-slaves"] == 1)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with ExitStack() as stack:
        yield Guarded(tmp_path / "redis", stack)


def test_a_call_that_a_failover_interrupts_finds_the_new_primary(guarded: Guarded) -> None:
    store = open_store(Settings(redis_url=guarded.url), patience_s=60)
    store.ping()
    order = submission()
    with ThreadPoolExecutor(1) as threads, guarded.primary_client() as client:
        client.client_pause(60_000, all=False)  # scripts wait, INFO does not
        call = threads.submit(store.submit, order)
        wait_until(lambda: _blocked(client))

        guarded.primary.kill()

        assert call.result(30).job.id == order.job.id
    assert store.get(order.job.id).id == order.job.id


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_farm_goes_on_when_the_primary_is_killed(
    models: Path, tmp_path: Path, guarded: Guarded
) -> None:
    settings = {"FARM_DURABLE_REPLICAS": "1", "FARM_LEASE_S": "4"}
    with Parts(tmp_path / "farm", models, guarded.url, **settings) as parts:
        parts.start("chores")
        worker = parts.worker("w0")
        _, url = parts.api()
        jobs = [_order(url, seed) for seed in range(8)]
        wait_until(lambda: _status(url, jobs[0]) == "succeeded", 30)
        with guarded.primary_client() as client:
            long = httpx2.post(f"{url}/jobs", json={**ORDER, "steps": 100, "n": 4, "seed": 99})
            assert long.status_code == 202
            jobs.append(long.json()["id"])
            wait_until(lambda: client.zcard("farm:leases") > 0)

        guarded.primary.kill()

        # With one replica asked for and none left, no order may be acknowledged any more.
        wait_until(lambda: _answer(url, 50) == 503, 30, "for the failover")
        wait_until(lambda: all(_status(url, job) == "succeeded" for job in jobs), 90)
        assert worker.alive
        assert httpx2.post(f"{url}/jobs", json=ORDER, timeout=30).status_code == 503
        assert httpx2.get(f"{url}/status").json()["ready"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_orders_are_taken_again_by_the_promoted_server(
    models: Path, tmp_path: Path, guarded: Guarded
) -> None:
    with Parts(tmp_path / "farm", models, guarded.url) as parts:
        parts.start("chores")
        parts.worker("w0")
        _, url = parts.api()
        assert _answer(url, 1) == 202

        guarded.primary.kill()

        wait_until(lambda: _answer(url, 2) in (200, 202), 60, "for the promoted server")
        with redis.Redis(port=guarded.replica.port, password="secret") as client:
            assert client.info("replication")["role"] == "master"
        job = _order(url, 3)
        wait_until(lambda: _status(url, job) == "succeeded", 60)


def _blocked(client: redis.Redis) -> bool:
    return any(other["cmd"] == "evalsha" for other in client.client_list())


def _answer(url: str, seed: int) -> int:
    answer = httpx2.post(f"{url}/jobs", json={**ORDER, "seed": seed}, timeout=60)
    assert answer.status_code < 500 or answer.headers["retry-after"], answer.text
    return answer.status_code


def _order(url: str, seed: int) -> str:
    answer = httpx2.post(f"{url}/jobs", json={**ORDER, "seed": seed}, timeout=60)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _status(url: str, job: str) -> str | None:
    answer = httpx2.get(f"{url}/jobs/{job}", timeout=60)
    return answer.json().get("status") if answer.status_code == 200 else None
