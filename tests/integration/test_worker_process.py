"""The worker as a process: how it starts, fails to start, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.jobs import JobStatus
from shared.store.address import connect
from shared.store.port import WorkerStatus
from shared.store.redis_store import RedisJobStore, StoreConfig
from shared.tickets import ticket_template
from tests.orders import submission
from tests.waiting import wait_until

START_S = 60.0


class Process:
    def __init__(self, url: str, folder: Path, **env: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
        settings = {
            "FARM_REDIS_URL": url,
            "FARM_DATA_DIR": str(folder),
            "FARM_WORKER_NAME": "slot-1",
            "OMP_NUM_THREADS": "1",
            **env,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker.main"], env={**clean, **settings}
        )

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def url(redis_of: Callable[[str], str]) -> str:
    return redis_of("valkey")


@pytest.fixture
def store(url: str) -> Iterator[RedisJobStore]:
    client = connect(url, patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(**env: str) -> Process:
        started.append(Process(url, tmp_path, **env))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def worker(store: RedisJobStore) -> WorkerStatus | None:
    return next(iter(store.workers()), None)


def is_in(store: RedisJobStore, state: str) -> bool:
    seen = worker(store)
    return seen is not None and seen.state == state


def test_a_worker_is_ready_only_when_its_model_is_loaded_and_ends_with_0(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    job = store.submit(submission()).job
    process = start()

    wait_until(lambda: worker(store), START_S)
    assert is_in(store, "loading")
    wait_until(lambda: store.get(job.id).done, START_S)
    seen = worker(store)
    assert seen is not None
    assert all(step.status in ("done", "skipped") for step in seen.steps)
    assert process.end() == 0
    assert store.workers() == []


def test_sigterm_while_loading_ends_with_0(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    process = start()
    wait_until(lambda: is_in(store, "loading"), START_S)

    assert process.end() == 0
    assert store.workers() == []


def test_a_model_that_cannot_be_loaded_ends_with_1_and_a_sentence(
    store: RedisJobStore, start: Callable[..., Process], tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text('default = "m"\n[models.m]\nsource = "dir:/nowhere/at/all"\n')

    process = start(FARM_MODELS_FILE=str(models))

    assert process.process.wait(START_S) == 1
    seen = worker(store)
    assert seen is not None
    assert (seen.state, "/nowhere/at/all" in str(seen.error)) == ("failed", True)


def test_a_slot_that_starts_again_gives_back_what_it_held(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    order = submission()
    job = store.submit(order).job
    store.claim(order.orders[0].spec.pool, "old-token", "slot-1", "slot-1", 600.0)

    start()

    wait_until(lambda: store.get(job.id).done, START_S)
    done = store.get(job.id)
    assert (done.status, done.images[0].render.attempt) == (JobStatus.succeeded, 2)
