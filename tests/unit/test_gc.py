"""Which pictures gc takes: real files in a folder, the job store in memory."""

from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path
from threading import Event

import pytest
from prometheus_client import CollectorRegistry

from shared.gc import Waste, find_waste, sweep
from shared.jobs import StoredResult
from shared.metrics import ChoresMetrics
from shared.results.inputs import InputMissing, Inputs
from shared.results.local import LocalResults
from shared.results.names import picture, record
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from shared.store.values import Claim
from tests.orders import POOL, stored, submission
from tests.waiting import wait_until
from worker.chores import Chores, collect

DAY_S = 86_400.0
NOW = time.time()


class Farm:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryJobStore()
        self.results = LocalResults(folder)

    def claim(self, token: str, **order: object) -> Claim:
        self.store.submit(submission(**order))  # type: ignore[arg-type]
        taken = self.store.claim(POOL, token, "slot", "worker", 60.0)
        assert taken is not None
        return taken

    def render(self, token: str, **order: object) -> StoredResult:
        taken = self.claim(token, **order)
        result = self.put(taken.fingerprint, token)
        assert self.store.close(taken.render_id, token, result)
        return result

    def put(self, fingerprint: str, token: str, age_days: float = 0) -> StoredResult:
        result = stored(fingerprint, token)
        self.results.put(result, b"picture", {})
        self.age(result, age_days)
        return result

    def age(self, result: StoredResult, days: float) -> None:
        for name in (picture, record):
            path = self.folder / name(result.fingerprint, result.token)
            os.utime(path, (NOW - days * DAY_S, NOW - days * DAY_S))

    def waste(self, retention_days: float | None = None) -> dict[str, str]:
        """Reasons by token."""
        return {waste.kept.token: waste.reason for waste in self._found(retention_days)}

    def collect(self, retention_days: float | None = None) -> list[str]:
        found = self._found(retention_days)
        return [waste.kept.token for waste in sweep(self.store, self.results, found)]

    def _found(self, days: float | None) -> list[Waste]:
        retention_s = None if days is None else days * DAY_S
        return find_waste(self.store, self.results, now=NOW, retention_s=retention_s)

    def stored(self) -> set[str]:
        return {kept.token for kept in self.results.walk()}


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


A = "a1" * 32


def test_a_picture_without_a_job_goes_when_it_is_older_than_the_retention(farm: Farm) -> None:
    farm.put(A, "old", age_days=31)
    farm.put("b2" * 32, "young", age_days=29)

    assert farm.waste(retention_days=30) == {"old": "expired"}
    assert farm.waste() == {}
    assert farm.collect(retention_days=30) == ["old"]
    assert farm.stored() == {"young"}


def test_a_picture_of_a_living_job_stays_whatever_its_age(farm: Farm) -> None:
    farm.age(farm.render("published"), 400)
    farm.age(farm.render("again", cache="bypass"), 400)

    assert farm.waste(retention_days=0) == {}
    assert farm.collect(retention_days=0) == []


def test_a_losers_picture_goes_after_a_day(farm: Farm) -> None:
    result = farm.render("published")
    farm.put(result.fingerprint, "zombie", age_days=1.1)
    farm.put(result.fingerprint, "zombie2", age_days=0.9)

    assert farm.waste() == {"zombie": "superseded"}
    assert farm.collect() == ["zombie"]
    assert farm.results.find(result.fingerprint) == result


def test_the_picture_that_answers_is_never_superseded(farm: Farm) -> None:
    farm.put(A, "first", age_days=9)
    farm.put(A, "second", age_days=8)

    assert farm.waste() == {"second": "superseded"}


def test_what_is_left_of_an_upload_goes_after_a_day(farm: Farm) -> None:
    for age_days, token in ((1.1, "old"), (0.9, "young")):
        farm.put(A, token, age_days)
        (farm.folder / record(A, token)).unlink()

    assert farm.collect() == ["old"]
    assert farm.stored() == {"young"}


def test_a_published_picture_whose_record_was_lost_stays(farm: Farm) -> None:
    result = farm.render("published")
    farm.age(result, 2)
    (farm.folder / record(result.fingerprint, "published")).unlink()

    assert farm.collect(retention_days=0) == []


def test_a_picture_that_a_claim_may_find_stays(farm: Farm) -> None:
    order = submission()
    farm.put(order.orders[0].fingerprint, "old", age_days=31)
    farm.store.submit(order)

    assert farm.waste(retention_days=30) == {"old": "expired"}
    assert farm.collect(retention_days=30) == []
    assert farm.stored() == {"old"}


def test_a_picture_that_was_found_since_gc_looked_stays(farm: Farm) -> None:
    order = submission()
    old = farm.put(order.orders[0].fingerprint, "old", age_days=31)
    found = find_waste(farm.store, farm.results, now=NOW, retention_s=DAY_S)
    farm.store.submit(order)
    taken = farm.store.claim(POOL, "t", "slot", "worker", 60.0)
    assert taken is not None
    farm.store.close(taken.render_id, "t", old, found=True)
    farm.store.forget(old.fingerprint, taken.render_id)  # a hiccup of the storage: not the answer

    assert list(sweep(farm.store, farm.results, found)) == []
    assert farm.stored() == {"old"}


def test_after_gc_the_same_order_is_rendered_again(farm: Farm) -> None:
    order = submission()
    farm.put(order.orders[0].fingerprint, "old", age_days=31)

    farm.collect(retention_days=30)

    assert farm.store.submit(order).made == 1
    assert farm.results.find(order.orders[0].fingerprint) is None


def test_the_chore_collects_beside_the_others_and_one_at_a_time() -> None:
    turns: list[int] = []
    gate = Event()

    def collect() -> None:
        turns.append(1)
        gate.wait(10)

    chores = Chores(MemoryJobStore(), collect)
    chores.gc()
    chores.gc()
    chores.reap()

    wait_until(lambda: turns)
    gate.set()
    assert turns == [1]


def test_the_nightly_chore_takes_old_inputs_though_pictures_are_kept_for_ever(
    farm: Farm,
) -> None:
    long_ago = Inputs(farm.results, lambda: date(2020, 1, 1))
    for sha256 in (A, "b2" * 32):
        long_ago.put("alice", sha256, b"png")
    farm.store.submit(submission(init_image_sha256=A, strength=0.5))
    farm.put(A, "old", age_days=400)

    registry = CollectorRegistry()
    collect(Settings(), farm.store, farm.results, ChoresMetrics(registry))

    assert long_ago.get(A) == b"png"
    with pytest.raises(InputMissing):
        long_ago.get("b2" * 32)
    assert farm.stored() == {"old"}
    gone = {"what": "inputs_collected"}
    assert registry.get_sample_value("renderfarm_chore_changes_total", gone) == 1
