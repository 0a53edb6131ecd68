"""The whole of it at once, in half a minute: load, kills, cuts and zombies together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.plan import STRIKES, deck, draw
from tests.chaos.run import run

SECONDS = 15.0
SEED = 7


def test_a_plan_is_repeatable_and_a_long_one_meets_every_fault() -> None:
    plan = draw(SEED, 600, deck(s3=True))

    assert plan == draw(SEED, 600, deck(s3=True))
    assert plan != draw(SEED + 1, 600, deck(s3=True))
    kinds = [fault.kind for fault in plan.faults]
    assert set(STRIKES) <= set(kinds)
    assert sum(kind.startswith("kill") or kind == "redis killed" for kind in kinds) >= 100
    assert len(plan.orders) >= 1000


@pytest.mark.timeout(400)  # a busy machine starts the killed workers slowly
def test_nothing_is_lost_and_nothing_doubled_while_everything_is_killed(ground: Path) -> None:
    plan = draw(SEED, SECONDS, deck(s3=False), every_s=1.0)

    report = run(plan, ground / "short", workers=2, sample=6)

    print(report.table())
    assert report.wrong == []
    assert report.unfinished == 0
    assert report.kills >= 5
    assert report.accepted >= 20
