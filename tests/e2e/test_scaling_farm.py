"""Real workers come and go by the shipped scaling rule, which reads the real metrics page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest

from benchmarks.scaling import rules
from deploy.embedded import EmbeddedRedis
from deploy.rehearsal import turns
from tests.e2e.parts import Parts
from tests.e2e.scaled import ScaledFarm

RULE = rules()["worker-sd35-medium"]


@pytest.fixture
def parts(models: Path, tmp_path: Path) -> Iterator[Parts]:
    with (
        EmbeddedRedis(tmp_path / "redis") as redis,
        Parts(tmp_path / "farm", models, redis.url) as started,
    ):
        yield started


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=30) as client:
        yield client


def serve(farm: ScaledFarm, seeds: range, limit_s: float = 250.0) -> None:
    """Order, let the rule work until nobody is there any more, and look at every job."""
    jobs = [farm.order(seed) for seed in seeds]
    begun = len(farm.started)
    farm.run(lambda: len(farm.started) > begun and not any(p.alive for p in farm.started), limit_s)

    found = [farm.job(job) for job in jobs]
    assert [job["status"] for job in found] == ["succeeded"] * len(jobs)
    assert {image["attempt"] for job in found for image in job["images"]} == {1}, "nothing was lost"


def check(farm: ScaledFarm, most: int) -> None:
    """Nobody flapped, and whoever left ended what it had."""
    print(farm.table(every=8))
    assert max(sample.workers for sample in farm.samples) == most
    assert [part.wait() for part in farm.started] == [0] * len(farm.started)
    assert farm.metric("renderfarm_store_total", 'outcome="lost"') == 0


@pytest.mark.slow
def test_workers_come_for_a_burst_and_go_without_losing_a_render(
    parts: Parts, http: httpx2.Client
) -> None:
    farm = ScaledFarm(parts, replace(RULE.faster(300), most=2), http)

    serve(farm, range(32))

    check(farm, most=2)
    assert turns([sample.workers for sample in farm.samples]) == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_500_jobs_bring_all_workers_once_and_the_next_order_wakes_one_again(
    parts: Parts, http: httpx2.Client
) -> None:
    farm = ScaledFarm(parts, replace(RULE.faster(60), most=3), http)

    serve(farm, range(500), 800)
    burst = [sample.workers for sample in farm.samples]
    serve(farm, range(500, 502))

    check(farm, most=3)
    assert turns(burst) == 1
    assert turns([sample.workers for sample in farm.samples]) == 3
    last = [sample.workers for sample in farm.samples[len(burst) :]]
    assert max(last) == 1, "and no more than that"
    assert all(abs(after - before) <= 3 for before, after in pairwise(burst))
