"""The farm's queue, simulated: how long images wait for so many workers. Pure, without a clock.

Orders come at random (Poisson), each with all of its images at once. What an image takes is drawn
from the times given. The image that came first goes to a worker that is free; a worker that goes
down gives what it had back to the head of the queue, where it starts again, as the farm does.

Of the farm's order the fair shares are left out: they decide whose image is next, so an owner with
little queued waits less than is said here, and one with much more.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from statistics import fmean, stdev

IMAGES, IMAGES_PER_WORKER = 40_000, 50  # of one run, at least
RUNS = 4


@dataclass(slots=True, frozen=True)
class Load:
    """What is asked of a farm. Of `images` and `image_s` each is as likely as the next."""

    jobs_per_hour: float
    images: tuple[int, ...]  # of a job
    image_s: tuple[float, ...]  # device seconds of an image
    cached_share: float = 0.0  # of the orders: these never reach the queue

    @property
    def rendered_jobs_per_hour(self) -> float:
        return self.jobs_per_hour * (1 - self.cached_share)

    @property
    def images_per_second(self) -> float:
        """Of those that are rendered."""
        return self.rendered_jobs_per_hour * fmean(self.images) / 3600

    @property
    def busy_workers(self) -> float:
        """How many would be busy on average if none ever failed."""
        return self.images_per_second * fmean(self.image_s)


@dataclass(slots=True, frozen=True)
class Crew:
    """Workers that are up for `up_share` of the time, and away for `away_s` on average."""

    workers: int
    up_share: float = 1.0
    away_s: float = 180.0

    @property
    def up_s(self) -> float:
        """Mean time from one failure to the next."""
        return math.inf if self.up_share >= 1 else self.away_s * self.up_share / (1 - self.up_share)


@dataclass(slots=True, frozen=True)
class Waits:
    """What a crew makes of a load. Waits end when the attempt starts that makes the picture."""

    busy: float  # share of the workers that render, of those that are paid
    p50_s: float
    p95_s: float
    p99_s: float
    mean_s: float
    job_p95_s: float  # until the last image of an order is rendered
    queued_p99: float  # images that an order finds before it
    p95_error_s: float = 0.0  # standard error over the runs


def waits(
    load: Load, crew: Crew, *, images: int = IMAGES, runs: int = RUNS, seed: int = 1
) -> Waits:
    """The mean of several runs, whose random numbers are decided by the seed."""
    draws = [Random(f"{seed} {run}") for run in range(runs)]  # noqa: S311 - no secrets
    found = [_Run(load, crew, images, draw).waits() for draw in draws]
    names = ("busy", "p50_s", "p95_s", "p99_s", "mean_s", "job_p95_s", "queued_p99")
    tails = [each.p95_s for each in found]
    return Waits(
        **{name: fmean(getattr(each, name) for each in found) for name in names},
        p95_error_s=stdev(tails) / math.sqrt(runs) if runs > 1 else 0.0,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(slots=True)
class _Image:
    job: _Job
    need_s: float


@dataclass(slots=True)
class _Job:
    at_s: float
    left: int
    counted: bool


@dataclass(slots=True, eq=False)
class _Worker:
    """`turn` tells an end that was foreseen from one that a failure has overtaken."""

    held: _Image | None = None
    since_s: float = 0.0
    turn: int = 0


@dataclass(slots=True)
class _Seen:
    waits_s: list[float] = field(default_factory=list)
    jobs_s: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    busy_s: float = 0.0


class _Run:
    """One simulation: what happens next is what is earliest in the heap."""

    def __init__(self, load: Load, crew: Crew, images: int, random: Random) -> None:
        self._load, self._crew, self._random = load, crew, random
        images = max(images, IMAGES_PER_WORKER * crew.workers)
        self._jobs = max(10, math.ceil(images / fmean(load.images)))
        self._rate = load.rendered_jobs_per_hour / 3600
        self._workers = [_Worker() for _ in range(crew.workers)]
        self._free: list[_Worker] = []
        self._pending: deque[_Image] = deque()
        # (when, serial against ties, what, worker, its turn)
        self._events: list[tuple[float, int, str, _Worker | None, int]] = []
        self._serial = self._ordered = self._open = 0
        self._counting_from_s = 0.0
        self._now = 0.0
        self._seen = _Seen()

    def waits(self) -> Waits:
        self._after(self._random.expovariate(self._rate), "order")
        for each in self._workers:
            begin = self._up if self._random.random() < self._crew.up_share else self._down
            begin(each)
        while self._ordered < self._jobs or self._open:
            self._now, _, what, worker, turn = heappop(self._events)
            if worker is None:
                self._order()
            elif what == "end":
                self._end(worker, turn)
            elif what == "down":
                self._down(worker)
            else:
                self._up(worker)
            self._claim()
        return self._summed_up()

    def _summed_up(self) -> Waits:
        seen, span_s = self._seen, self._now - self._counting_from_s
        return Waits(
            busy=min(1.0, seen.busy_s / (span_s * len(self._workers))),
            p50_s=percentile(seen.waits_s, 0.5),
            p95_s=percentile(seen.waits_s, 0.95),
            p99_s=percentile(seen.waits_s, 0.99),
            mean_s=fmean(seen.waits_s),
            job_p95_s=percentile(seen.jobs_s, 0.95),
            queued_p99=percentile(seen.queued, 0.99),
        )

    def _after(self, seconds: float, what: str, worker: _Worker | None = None) -> None:
        self._serial += 1
        turn = worker.turn if worker else 0
        heappush(self._events, (self._now + seconds, self._serial, what, worker, turn))

    def _order(self) -> None:
        self._ordered += 1
        counted = self._ordered > self._jobs // 10  # not what meets an empty farm
        job = _Job(self._now, self._random.choice(self._load.images), counted)
        if job.counted:
            self._counting_from_s = self._counting_from_s or self._now
            self._seen.queued.append(len(self._pending))
        self._open += job.left
        self._pending.extend(
            _Image(job, self._random.choice(self._load.image_s)) for _ in range(job.left)
        )
        if self._ordered < self._jobs:
            self._after(self._random.expovariate(self._rate), "order")

    def _claim(self) -> None:
        while self._pending and self._free:
            worker = self._free.pop()
            worker.held, worker.since_s = self._pending.popleft(), self._now
            self._after(worker.held.need_s, "end", worker)

    def _end(self, worker: _Worker, turn: int) -> None:
        if turn != worker.turn or worker.held is None:
            return  # it went down meanwhile
        job = worker.held.job
        self._spent(worker)
        self._open -= 1
        job.left -= 1
        if job.counted:
            self._seen.waits_s.append(worker.since_s - job.at_s)
            if not job.left:
                self._seen.jobs_s.append(self._now - job.at_s)
        worker.held = None
        self._free.append(worker)

    def _down(self, worker: _Worker) -> None:
        worker.turn += 1
        if worker in self._free:
            self._free.remove(worker)
        if worker.held is not None:
            self._spent(worker)
            self._pending.appendleft(worker.held)
            worker.held = None
        self._after(self._random.expovariate(1 / self._crew.away_s), "up", worker)

    def _up(self, worker: _Worker) -> None:
        self._free.append(worker)
        if self._crew.up_share < 1:
            self._after(self._random.expovariate(1 / self._crew.up_s), "down", worker)

    def _spent(self, worker: _Worker) -> None:
        if self._counting_from_s:
            self._seen.busy_s += self._now - max(worker.since_s, self._counting_from_s)
