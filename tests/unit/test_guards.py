"""The watchdog's judgement, a worker's health, and whether it is wanted: all without waiting."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from shared.store.values import (
    Gpu,
    Stats,
)
from tests.orders import POOL, submission
from worker.health import Health, rss_mb
from worker.watchdog import Watchdog

LIMIT_S = 60.0


@dataclass
class FakeBench:
    tickets: int = 0
    at_work: bool = False
    stuck: bool = False
    draining: bool = False


class Scene:
    """A watchdog, what it watches, and its clock."""

    def __init__(self, store: MemoryJobStore | None = None) -> None:
        self.bench, self.store, self.now = FakeBench(), store or MemoryJobStore(), 1000.0
        self.dog = Watchdog(
            self.bench, self.store, POOL, LIMIT_S, lambda: None, clock=lambda: self.now
        )

    def after(self, seconds: float) -> bool:
        self.now += seconds
        return self.dog.look()


def test_a_worker_that_takes_nothing_while_renders_wait_is_deaf() -> None:
    scene = Scene()
    scene.store.submit(submission())

    assert [scene.after(s) for s in (0, 30, 29, 1)] == [False, False, False, True]


def test_a_long_idle_worker_has_the_whole_time_when_work_comes() -> None:
    scene = Scene()
    assert not scene.after(10_000)

    scene.store.submit(submission())

    assert not scene.after(30)
    assert not scene.after(59)
    assert scene.after(1)


def test_a_ticket_shows_that_it_hears_even_one_that_found_nothing() -> None:
    scene = Scene()
    scene.store.submit(submission())

    for _ in range(10):
        assert not scene.after(50)
        scene.bench.tickets += 1


@pytest.mark.parametrize("state", ["at_work", "draining"])
def test_a_worker_that_cannot_take_one_is_not_deaf(state: str) -> None:
    scene = Scene()
    scene.store.submit(submission())
    setattr(scene.bench, state, True)

    assert not any(scene.after(LIMIT_S) for _ in range(3))


def test_work_of_another_pool_is_not_its_business() -> None:
    scene = Scene()
    scene.store.submit(submission(model_digest="f" * 64))

    assert not any(scene.after(LIMIT_S) for _ in range(3))


def test_a_store_that_is_away_is_not_the_workers_fault() -> None:
    class Away(MemoryJobStore):
        def stats(self) -> Stats:
            raise StoreUnavailable

    scene = Scene(Away())
    scene.store.submit(submission())

    assert not any(scene.after(LIMIT_S) for _ in range(3))


def test_a_render_that_nothing_stops_is_a_hung_worker() -> None:
    scene = Scene()
    scene.bench.at_work = scene.bench.stuck = True

    assert not scene.after(0)
    assert scene.after(LIMIT_S)


def gpu(used_mb: int) -> Gpu:
    return Gpu(name="card", memory_used_mb=used_mb, memory_peak_mb=0, memory_total_mb=0)


def test_each_complaint_is_in_words_with_its_figure() -> None:
    health = Health(max_failures=2, max_rss_mb=100, max_growth_mb=50, ready_mb=1000)
    assert health.complaint(100, gpu(1050)) is None

    assert health.complaint(101, None) == "its memory grew to 101 MiB"
    assert health.complaint(0, gpu(1051)) == "its device memory grew by 51 MiB"
    health.failed("render_error")
    assert health.doubt() is None
    health.failed("internal_error")
    assert health.doubt() == "2 renders failed in a row"


def test_a_limit_of_0_is_none() -> None:
    health = Health(ready_mb=0)
    for _ in range(100):
        health.failed("render_error")

    assert health.doubt() is health.complaint(10**6, gpu(10**6)) is None


def test_the_limits_are_the_settings() -> None:
    given = Settings(unwell_failures=7, max_rss_mb=8, max_device_memory_growth_mb=9)

    assert Health.of(given, gpu(5)) == Health(7, 8, 9, ready_mb=5)
    assert Health.of(given, None).ready_mb is None


def test_this_process_takes_some_memory() -> None:
    assert 5 < rss_mb() < 100_000
