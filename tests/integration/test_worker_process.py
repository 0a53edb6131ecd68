"""The worker as a process: how it starts, fails to start, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import redis

from deploy.children import Child, Program
from shared.jobs import JobStatus, RenderState
from shared.keys import queue_name
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import WorkerStatus
from shared.tickets import ticket_template
from tests.orders import submission
from tests.waiting import wait_until
from worker.exits import DEVICE_FAULT, WORDS

START_S = 120.0


def command(
    url: str, folder: Path, code: str = "", **env: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(argv, environment) of a worker, or of `code`."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
    settings = {
        "FARM_REDIS_URL": url,
        "FARM_DATA_DIR": str(folder),
        "FARM_WORKER_NAME": "slot-1",
        "OMP_NUM_THREADS": "1",
        **env,
    }
    what = ("-c", code) if code else ("-m", "worker.main")
    return (sys.executable, *what), {**clean, **settings}


@contextmanager
def keepers_gone(pid: int | None) -> Iterator[None]:
    """What a keeper has to say of a worker that is ended inside belongs to this test."""
    keepers: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        keepers = psutil.Process(pid).children(recursive=True) if pid else []
    yield
    _, left = psutil.wait_procs(keepers, 30)
    assert not left


class Process:
    def __init__(self, url: str, folder: Path, code: str = "", **env: str) -> None:
        argv, full_env = command(url, folder, code, **env)
        self.process = subprocess.Popen(argv, env=full_env)

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

    def start(code: str = "", **env: str) -> Process:
        started.append(Process(url, tmp_path, code, **env))
        return started[-1]

    yield start
    for one in started:
        with keepers_gone(one.process.pid):
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
    assert seen.load_s is not None
    assert seen.load_s > sum(step.seconds or 0 for step in seen.steps)
    assert process.end() == 0
    assert store.workers() == []


def test_sigterm_while_loading_ends_with_0(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    process = start()
    wait_until(lambda: is_in(store, "loading"), START_S)

    assert process.end() == 0
    assert store.workers() == []


# SIGTERM comes while a library runs that swallows what the handler raises.
SWALLOWED = """
import os, signal, sys, torch
from shared.settings import load_settings
from worker.main import serve

def forward(*_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        hook.remove()

hook = torch.nn.modules.module.register_module_forward_pre_hook(forward)
sys.exit(serve(load_settings()))
"""


def test_sigterm_that_a_library_swallowed_while_loading_still_ends_with_0(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    assert start(SWALLOWED).process.wait(START_S) == 0
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


# ------------------------------------------------------------------------------------ guards


def died_of(store: RedisJobStore) -> str | None:
    seen = worker(store)
    return seen.last_death.cause if seen and seen.last_death else None


def is_unloaded(store: RedisJobStore) -> bool:
    seen = worker(store)
    return seen is not None and {step.status for step in seen.steps} == {"waiting"}


@pytest.fixture
def supervised(url: str, tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """A worker that is started again when it ends, by `tick`; its reports are in `told`."""
    children: list[Child] = []

    def start(told: list[str], **env: str) -> Child:
        argv, full_env = command(url, tmp_path, **env)
        program = Program("worker", argv, full_env, tmp_path / "worker.log", exit_words=WORDS)
        children.append(Child(program, told.append))
        children[-1].start()
        return children[-1]

    yield start
    for child in children:
        with keepers_gone(child.pid):
            child.kill()


def test_a_worker_without_tickets_while_renders_wait_is_deaf_and_its_next_life_does_them(
    store: RedisJobStore, url: str, supervised: Callable[..., Child]
) -> None:
    told: list[str] = []
    order = submission()
    job = store.submit(order).job
    with redis.Redis.from_url(url) as client:
        client.delete(queue_name(order.orders[0].spec.pool))  # no chores top the tickets up

    child = supervised(told, FARM_WATCHDOG_S="1")
    wait_until(lambda: child.tick() or told, START_S)
    assert "exited with code 3: it was deaf: renders waited and it took none" in told[0]
    wait_until(lambda: died_of(store) == "deaf")  # its keeper outlives it by a moment

    store.reconcile()
    wait_until(lambda: child.tick() or store.get(job.id).done, START_S)
    assert store.get(job.id).status is JobStatus.succeeded
    assert '"action": "deaf"' in child.program.log.read_text()


@pytest.mark.slow  # the watchdog's own tests have it too
def test_an_idle_worker_without_work_is_left_alone(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    process = start(FARM_WATCHDOG_S="0.2")
    wait_until(lambda: is_in(store, "ready"), START_S)
    beats = {store.workers()[0].last_seen_at}

    wait_until(lambda: beats.add(store.workers()[0].last_seen_at) or len(beats) > 3)

    assert process.process.poll() is None


def test_an_order_to_drain_lets_the_render_finish_and_keeps_the_next_life_from_loading(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    process = start()
    wait_until(lambda: is_in(store, "ready"), START_S)
    first = store.submit(submission(seed=1, width=256, height=256, steps=40)).job
    wait_until(lambda: store.get(first.id).images[0].render.step > 1)
    second = store.submit(submission(seed=2)).job

    store.drain("slot-1")

    assert process.process.wait(START_S) == 0
    done = store.get(first.id)
    assert (done.status, done.images[0].render.attempt) == (JobStatus.succeeded, 1)
    assert store.get(second.id).status is JobStatus.queued
    again = start()
    wait_until(lambda: is_in(store, "draining"), START_S)
    beat = store.workers()[0].last_seen_at
    wait_until(lambda: store.workers()[0].last_seen_at > beat)
    assert is_unloaded(store)
    assert again.process.poll() is None

    assert store.lift("slot-1")
    wait_until(lambda: store.get(second.id).done, START_S)
    assert store.get(second.id).status is JobStatus.succeeded


def test_an_order_to_drain_gives_the_render_back_to_its_old_place_after_the_grace(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    process = start(FARM_DRAIN_S="0.1")
    wait_until(lambda: is_in(store, "ready"), START_S)
    first = store.submit(submission(seed=1, width=256, height=256, steps=100)).job
    wait_until(lambda: store.get(first.id).images[0].render.step > 1)
    store.submit(submission(seed=2))

    store.drain("slot-1")

    assert process.process.wait(START_S) == 0
    image = store.get(first.id).images[0]
    assert (image.position, image.render.losses) == (0, 0)


def test_a_worker_that_waits_for_its_release_ends_on_sigterm(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    store.drain("slot-1")
    process = start()
    wait_until(lambda: is_in(store, "draining"), START_S)

    assert process.end() == 0


def test_a_worker_that_is_unwell_again_and_again_ends_in_quarantine_until_it_is_released(
    store: RedisJobStore, supervised: Callable[..., Child]
) -> None:
    told: list[str] = []
    store.unwell("slot-1", "an earlier life")
    jobs = [store.submit(submission(seed=seed)).job for seed in range(2)]

    child = supervised(told, FARM_MAX_RSS_MB="1", FARM_QUARANTINE_AFTER="2")
    wait_until(lambda: child.tick() or is_in(store, "quarantined"), 2 * START_S)

    assert len(told) == 1
    assert "exited with code 5: it was unwell" in told[0]
    done = [store.get(job.id).status for job in jobs]
    assert done == [JobStatus.succeeded, JobStatus.queued]
    seen = worker(store)
    assert seen is not None
    assert seen.last_death is not None
    assert (seen.last_death.cause, is_unloaded(store)) == ("unwell", True)

    assert store.lift("slot-1")
    wait_until(lambda: child.tick() or store.get(jobs[1].id).done, START_S)
    assert store.get(jobs[1].id).status is JobStatus.succeeded


# The device breaks under the first render: from then on every module raises what CUDA would.
SICK = """
import sys, torch
from shared.settings import load_settings
from worker.main import serve
from worker.render import Bench

class Device:
    broken = False

def forward(*_):
    if Device.broken:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

torch.nn.modules.module.register_module_forward_pre_hook(forward)
take = Bench.take
def break_it(bench):
    Device.broken = True
    return take(bench)
Bench.take = break_it
sys.exit(serve(load_settings()))
"""


def test_a_broken_device_ends_its_process_and_the_render_goes_to_the_next(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    job = store.submit(submission()).job

    sick = start(SICK)

    assert sick.process.wait(START_S) == DEVICE_FAULT
    render = store.get(job.id).images[0].render
    assert (render.state, render.last_loss) == (RenderState.queued, "device_fault")
    start()
    wait_until(lambda: store.get(job.id).done, START_S)
    assert store.get(job.id).status is JobStatus.succeeded
    seen = worker(store)
    assert seen is not None
    assert seen.last_death is not None
    assert seen.last_death.cause == "device_fault"


def test_a_worker_killed_while_it_loads_is_known_to_have_died(
    store: RedisJobStore, start: Callable[..., Process]
) -> None:
    process = start()
    wait_until(lambda: not is_unloaded(store) and is_in(store, "loading"), START_S)

    process.process.kill()

    wait_until(lambda: store.workers()[0].last_death is not None)
