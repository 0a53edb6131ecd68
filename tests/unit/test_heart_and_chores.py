"""The heartbeat of a worker, and one turn of each chore."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shared.errors import StoreUnavailable
from shared.jobs import JobStatus
from shared.metrics import ChoresMetrics
from shared.store.memory import MemoryJobStore
from shared.store.values import WorkerStatus
from tests.orders import POOL, submission
from tests.waiting import wait_until
from worker.chores import EVERY_S, Chores, run, steady, timetable
from worker.heart import Heart

STATUS = WorkerStatus(name="w", pool=POOL, model="tiny", state="loading", device="cpu")


@pytest.fixture
def store() -> MemoryJobStore:
    return MemoryJobStore()


@pytest.fixture
def heart(store: MemoryJobStore, tmp_path: Path) -> Iterator[Heart]:
    heart = Heart(store, STATUS, tmp_path / "alive")
    heart.start()
    wait_until(store.workers)
    yield heart
    heart.stop()


def state(store: MemoryJobStore) -> str:
    return store.workers()[0].state


def test_loading_steps_are_seen_with_their_seconds(store: MemoryJobStore, heart: Heart) -> None:
    heart.step("load", "running")
    heart.step("load", "done")

    def load() -> object:
        return next(step for step in store.workers()[0].steps if step.name == "load")

    wait_until(lambda: load().status == "done" and load().seconds is not None)  # type: ignore[attr-defined]
    assert [s.name for s in store.workers()[0].steps][:2] == ["download", "preflight"]


def test_the_placement_that_was_chosen_is_seen(store: MemoryJobStore, heart: Heart) -> None:
    heart.placed("model-offload")

    wait_until(lambda: store.workers()[0].placement == "model-offload")


def test_the_state_follows_the_work(store: MemoryJobStore, heart: Heart) -> None:
    heart.say("ready")
    wait_until(lambda: state(store) == "ready")
    heart.busy("render-1")
    wait_until(lambda: (state(store), store.workers()[0].render) == ("busy", "render-1"))
    heart.idle()
    wait_until(lambda: (state(store), store.workers()[0].render) == ("ready", None))


def test_a_draining_worker_stays_draining(store: MemoryJobStore, heart: Heart) -> None:
    heart.say("draining")
    heart.idle()
    heart.say("draining")

    wait_until(lambda: state(store) == "draining")


def test_the_liveness_file_is_there_while_the_heart_beats(
    store: MemoryJobStore, tmp_path: Path
) -> None:
    file = tmp_path / "alive"
    heart = Heart(store, STATUS, file)
    heart.start()

    wait_until(file.exists)
    first = file.stat().st_mtime_ns
    wait_until(lambda: file.stat().st_mtime_ns > first)
    assert file.read_text() == "loading\n"
    heart.say("ready")
    wait_until(lambda: file.read_text() == "ready\n")
    heart.stop()

    assert not file.exists()
    assert store.workers() == []


def test_the_reason_of_a_failed_start_outlives_the_process(store: MemoryJobStore) -> None:
    heart = Heart(store, STATUS, None)
    heart.start()
    heart.say("failed", "the weights are cut short")

    heart.stop(leave=False)

    (seen,) = store.workers()
    assert (seen.state, seen.error) == ("failed", "the weights are cut short")


def test_a_silent_store_does_not_stop_the_heart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class DeafStore(MemoryJobStore):
        beats = 0

        def heartbeat(self, status: WorkerStatus, ttl_s: float) -> None:
            self.beats += 1
            raise StoreUnavailable

    store = DeafStore()
    heart = Heart(store, STATUS, tmp_path / "alive")
    heart.start()

    wait_until(lambda: store.beats >= 2)
    heart.stop()

    assert any(record.message == "no_heartbeat" for record in caplog.records)


def test_each_chore_does_its_turn_and_says_what_it_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "farm.chores")
    now = [1000.0]
    store = MemoryJobStore(clock=lambda: now[0], max_losses=2)
    registry = CollectorRegistry()
    chores = Chores(store, metrics=ChoresMetrics(registry))
    lost = store.submit(submission(seed=1)).job
    late = store.submit(submission(seed=2, deadline_s=5)).job
    store.claim(POOL, "t1", "slot", "worker", 1.0)

    now[0] += 10
    for name in EVERY_S:
        chores.turn(name)
    store.claim(POOL, "t2", "slot", "worker", 1.0)
    now[0] += 10
    chores.reap()

    assert store.get(lost.id).status is JobStatus.failed
    assert store.get(late.id).status is JobStatus.expired
    actions = [record.message for record in caplog.records]
    assert actions.count("reaped") == actions.count("expired") == actions.count("poisoned") == 1
    for what in ("reaped", "expired", "poisoned"):
        assert registry.get_sample_value("renderfarm_chore_changes_total", {"what": what}) == 1


def test_chores_that_go_round_show_it_to_a_probe(tmp_path: Path) -> None:
    file = tmp_path / "alive"

    Chores(MemoryJobStore(), liveness_file=file).show()

    assert file.read_text() == "ready\n"
    assert EVERY_S["show"] == 1.0


def test_a_failing_chore_is_logged_and_has_a_next_turn(caplog: pytest.LogCaptureFixture) -> None:
    def away() -> None:
        raise StoreUnavailable

    def wrong() -> None:
        raise ValueError("a bug")

    registry = CollectorRegistry()
    metrics = ChoresMetrics(registry)
    run("reap", away, metrics)
    run("reap", wrong, metrics)
    failed = {"chore": "reap", "outcome": "failed"}

    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert registry.get_sample_value("renderfarm_chore_runs_total", failed) == 2


def test_every_chore_is_timed_by_the_clock_that_goes_evenly() -> None:
    now = [datetime(2030, 1, 1, tzinfo=UTC)]

    times = {name: entry["schedule"] for name, entry in timetable(lambda: now[0]).items()}

    assert {"reap", "gc"} < set(times)
    assert {time.now() for time in times.values()} == {now[0]}  # never beat's own clock


def test_the_steady_clock_starts_with_the_wall_and_never_goes_back() -> None:
    clock = steady()

    first, second = clock(), clock()

    assert abs(first - datetime.now(UTC)) < timedelta(seconds=60)
    assert first <= second
