"""A host's clock is set by an hour, on or back, in the middle of the work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import at_rest
from tests.chaos.farm import ChaosFarm, freeze, thaw
from tests.servers.clocks import HOUR_S
from tests.waiting import wait_until

pytestmark = (
    pytest.mark.slow
)  # each named fault: `make slow`; what the job store does of it is in tests/contract

LONG = {"steps": 100, "size": "512x512"}  # seconds
seeds = itertools.count(5000, 10)  # room for the images of one job


@pytest.fixture(scope="module")
def clock_farm(ground: Path) -> Iterator[ChaosFarm]:
    """Each kind of part goes by a clock of its own."""
    with ChaosFarm(ground / "clocks", workers=2, apis=2, chores=1, clocks=True) as farm:
        yield farm


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["on", "back"])
@pytest.mark.parametrize("kind", ["worker", "api", "chores", "redis"])
def test_a_clock_that_jumps_in_mid_render_costs_no_attempt_and_holds_nothing_up(
    clock_farm: ChaosFarm, kind: str, jump_s: int
) -> None:
    farm = clock_farm
    job = farm.submit(seed=next(seeds), **LONG)
    farm.holder()

    farm.clocks[kind].jump(jump_s)

    done = farm.finished(job["id"])
    assert (done["status"], done["images"][0]["attempt"]) == ("succeeded", 1)
    later = farm.submit(seed=next(seeds), n=3)
    assert farm.finished(later["id"])["status"] == "succeeded"
    assert at_rest(farm) == []


@pytest.mark.parametrize("kind", ["chores", "redis"])
def test_the_render_of_a_host_that_is_gone_is_given_back_in_time_after_a_clock_went_back(
    clock_farm: ChaosFarm, kind: str
) -> None:
    farm = clock_farm
    job = farm.submit(seed=next(seeds), **LONG)
    worker = farm.holder()
    both = (worker, farm.keeper(farm.name_of(worker)))
    freeze(*both)
    try:
        farm.clocks[kind].jump(-HOUR_S)
        wait_until(lambda: farm.job(job["id"])["images"][0]["attempt"] == 2)
        assert farm.finished(job["id"])["status"] == "succeeded"  # before the zombie wakes up
    finally:
        thaw(*both)
    assert at_rest(farm) == []
