"""A scaling rule tried on simulated workers, second by second: they load, render, and drain before they go.

What is simulated: the scrape that lets the autoscaler see the backlog late, the cold start, the end
of a render before its worker leaves. What is not: nodes that cannot be had, images that fail.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from deploy.scaling import Autoscaler, Rule, Trigger

SCRAPE_S = 15


@dataclass(slots=True, frozen=True)
class Moment:
    """`workers` are wanted, `ready` of them have loaded, `busy` render; `backlog_s` is what waits."""

    at_s: int
    backlog_s: float
    workers: int
    ready: int
    busy: int


@dataclass(slots=True, frozen=True)
class Rehearsal:
    """`paid_s`: seconds of all workers, from their start to their end."""

    moments: tuple[Moment, ...]
    waits_s: tuple[float, ...]
    paid_s: float
    rendered_s: float

    @property
    def turns(self) -> int:
        return turns([moment.workers for moment in self.moments])

    def empty_at_s(self) -> int:
        """When there was no worker any more. Raises StopIteration if there is one at the end."""
        return next(
            m.at_s for m, after in pairwise(self.moments) if m.workers and not after.workers
        )


def turns(counts: Sequence[int]) -> int:
    """How often a number that went up goes down, or one that went down goes up."""
    steps = [after - before for before, after in pairwise(counts) if after != before]
    return sum((step > 0) != (last > 0) for last, step in pairwise(steps))


def rehearse(
    rule: Rule, orders: Sequence[tuple[float, float]], *, cold_start_s: float, until_s: int
) -> Rehearsal:
    """`orders`: when each image comes and its device seconds, in the order of time."""
    stage = _Stage(deque(orders), Autoscaler(rule), rule, cold_start_s)
    moments = tuple(stage.second(now) for now in range(until_s))
    return Rehearsal(moments, tuple(stage.waits_s), stage.paid_s, sum(s for _, s in orders))


@dataclass(slots=True, eq=False)
class _Worker:
    able_at: float
    free_at: float
    leaving: bool = False


@dataclass(slots=True)
class _Stage:
    coming: deque[tuple[float, float]]
    scaler: Autoscaler
    rule: Rule
    cold_start_s: float
    pending: deque[tuple[float, float]] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    paid_s: float = 0.0
    rendered: deque[tuple[float, float]] = field(default_factory=deque)
    seen: tuple[float, ...] = ()

    def second(self, now: int) -> Moment:
        while self.coming and self.coming[0][0] <= now:
            self.pending.append(self.coming.popleft())
        self._render(now)
        self.workers = [each for each in self.workers if not each.leaving or each.free_at > now]
        self._scale(now)
        self.paid_s += len(self.workers)
        staying = [each for each in self.workers if not each.leaving]
        return Moment(
            at_s=now,
            backlog_s=self._backlog_s(),
            workers=len(staying),
            ready=sum(each.able_at <= now for each in staying),
            busy=sum(each.able_at <= now < each.free_at for each in self.workers),
        )

    def _backlog_s(self) -> float:
        return sum(cost_s for _, cost_s in self.pending)

    def _render(self, now: int) -> None:
        for each in self.workers:
            while self.pending and each.free_at <= now and not each.leaving:
                came_at, cost_s = self.pending.popleft()
                begun_at = max(each.free_at, came_at)
                self.waits_s.append(begun_at - came_at)
                each.free_at = begun_at + cost_s
                self.rendered.append((each.free_at, cost_s))

    def _scale(self, now: int) -> None:
        if now % SCRAPE_S == 0:
            self.seen = tuple(self._value(each, now) for each in self.rule.triggers)
        for every_s, turn in (
            (self.rule.polling_s, self.scaler.poll),
            (self.rule.sync_s, self.scaler.sync),
        ):
            if now % every_s == 0:
                staying = [each for each in self.workers if not each.leaving]
                self._set(turn(now, self.seen, len(staying)), staying, now)

    def _value(self, trigger: Trigger, now: int) -> float:
        if trigger.sees == "backlog":
            return self._backlog_s()
        since = now - trigger.window_s
        return sum(cost_s for at, cost_s in self.rendered if since < at <= now) / trigger.window_s

    def _set(self, wanted: int, staying: list[_Worker], now: int) -> None:
        """The youngest go first, as a ReplicaSet does it; one that still loads goes at once."""
        for _ in range(wanted - len(staying)):
            able_at = now + self.cold_start_s
            self.workers.append(_Worker(able_at, free_at=able_at))
        for each in staying[wanted:]:
            each.leaving = True
            if each.able_at > now:
                each.free_at = now
