"""One run: a farm, its load, its faults, and the verdict."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import verdict
from tests.chaos.ears import Ears
from tests.chaos.farm import READY_S, ChaosFarm
from tests.chaos.faults import Injector
from tests.chaos.load import Load
from tests.chaos.plan import CLOCKS, Plan
from tests.chaos.recovery import Recoveries, slowest
from tests.receiver import receiving
from tests.servers.rgw import Rgw
from tests.waiting import wait_until

SETTLE_S = 120.0
SAMPLE = 20  # jobs that are rendered again
GIVEN_BACK = "kill worker"


@dataclass(slots=True)
class Report:
    plan: Plan
    wrong: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    starts: int = 0
    told: int = 0  # messages that the receiver of webhooks got
    accepted: int = 0
    refused: int = 0
    lost: int = 0  # accepted, and no record of it
    doubled: int = 0  # published more than once, or one order became two jobs
    unfinished: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    renders: int = 0
    unpublished: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    took_s: float = 0.0

    def table(self) -> str:
        """Faults by kind with the slowest recovery, then what became of the load."""
        lines = [f"{'fault':<24}{'times':>6}{'slowest recovery, s':>22}"]
        for kind, times in sorted(self.done.items()):
            seen = self.seconds.get(kind)
            lines.append(f"{kind:<24}{times:>6}{_seconds(seen):>22}")
        back = self.seconds.get(GIVEN_BACK, [])
        ends = ", ".join(f"{n} {status}" for status, n in sorted(self.statuses.items()))
        totals = self.totals
        lines += [
            "",
            f"seed {self.plan.seed}, {self.took_s:.0f} s: {sum(self.done.values())} faults, "
            f"{self.kills} kills, {self.starts} processes started",
            f"jobs accepted {self.accepted} ({ends}); refused or given up {self.refused}",
            f"renders {self.renders}: claimed {totals['claimed']}, rendered again "
            f"{totals['lost']}, found stored {totals['found']}, cache hits {totals['hit']}, "
            f"uploads that lost {self.unpublished}",
            f"a killed worker's render was given back in {_seconds(back, 0.5)} s (median of "
            f"{len(back)}), {_seconds(back, 0.95)} s (p95), {sum(s <= 1 for s in back)} within 1 s",
            f"webhooks: {self.told} messages heard",
            f"lost {self.lost}, doubled {self.doubled}, unfinished {self.unfinished}, "
            f"wrong {len(self.wrong)}",
            *self.wrong[:20],
        ]
        return "\n".join(lines)


def run(
    plan: Plan,
    folder: Path,
    *,
    workers: int,
    rgw: Rgw | None = None,
    binary: Path | None = None,
    long: bool = False,
    sample: int = SAMPLE,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Play the plan, wait until all is final, check everything. Raises nothing that is a verdict."""
    report = Report(plan)
    started = time.monotonic()
    recoveries = Recoveries()
    allowed = {"FARM_WEBHOOK_ALLOW_HOSTS": "127.0.0.1"}
    clocks = any(fault.kind in CLOCKS for fault in plan.faults)
    with (
        receiving() as receiver,
        ChaosFarm(
            folder, workers=workers, rgw=rgw, binary=binary, clocks=clocks, **allowed
        ) as farm,
    ):
        say(f"the farm is ready in {folder}")
        ears = Ears(receiver)
        load, injector = Load(farm, **ears.order), Injector(farm, recoveries, long=long)
        _play(plan, load, injector)
        say("the last fault is over")
        farm.submit(cache="bypass")  # with nothing to do nobody could tell that the farm goes on
        unfinished = load.settle(SETTLE_S)
        wait_until(farm.ready, READY_S, "for every part to be back")
        stuck = recoveries.stop()
        ears.settle(load, SETTLE_S)
        books = verdict.Books.of(farm)
        report.wrong += verdict.faults(farm, load, books)
        report.wrong += ears.faults(load)
        report.wrong += [f"never recovered from: {kind}" for kind in stuck]
        different = verdict.differing(farm, load, plan.seed, sample)
        report.wrong += [f"{job_id} differs from an undisturbed render" for job_id in different]
        family = farm.family()
    report.wrong += [f"still there: {each}" for each in family if each.is_running()]
    report.wrong += [f"an orphan: {each}" for each in farm.family()]
    report.done, report.kills, report.starts = injector.done, injector.kills, farm.starts
    report.accepted, report.refused = len(load.accepted), load.refused
    report.lost, report.doubled = verdict.lost(load, books), verdict.doubled(books)
    report.unfinished = len(unfinished)
    report.told = len(receiver.got)
    report.statuses = Counter(j.final["status"] for j in load.accepted.values() if j.final)
    report.totals, report.renders = books.totals, len(books.renders)
    report.unpublished = verdict.unpublished(books)
    report.seconds = recoveries.seconds
    report.took_s = time.monotonic() - started
    return report


def _play(plan: Plan, load: Load, injector: Injector) -> None:
    failures: list[BaseException] = []

    def hurt() -> None:
        try:
            injector.run(plan)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=hurt, name="faults")
    thread.start()
    load.run(plan.orders)
    thread.join()
    if failures:
        raise failures[0]


def _seconds(seen: list[float] | None, share: float = 1.0) -> str:
    return f"{slowest(seen, share):.2f}" if seen else "-"
