"""The rules of the memory store and what they act on: what `lua/lib/` is to the scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor

from shared.errors import JobNotFound
from shared.events import PROGRESS
from shared.jobs import (
    LEASED,
    OPEN,
    Dropped,
    Failure,
    Job,
    JobImage,
    Render,
    RenderState,
    as_left,
    move,
)
from shared.store.history import History
from shared.store.values import (
    Cause,
    Claim,
    Death,
    Delayed,
    Moved,
    Order,
    Owed,
)


@dataclass(slots=True)
class Entry:
    """A render and what only the store knows of it."""

    render: Render
    cost: float
    fresh: bool = False
    flow: str = ""
    tag: float = 0.0
    charge: float = 0.0
    gpu_ms: int = 0  # what it adds to its owner's account while it is queued
    token: str | None = None
    slot: str | None = None
    lease_until: float = 0.0
    due_at: float = 0.0  # end of the pause after a fault
    wanted: int = 0
    previews: int = 0
    waiters: set[tuple[str, int]] = field(default_factory=set)

    def set(self, state: RenderState | None = None, **fields: object) -> None:
        if state:
            fields["state"] = move(self.render.state, state)
        self.render = self.render.model_copy(update=fields)


@dataclass(slots=True)
class JobEntry:
    job: Job
    renders: list[str]
    cached: set[int]
    dropped: dict[int, tuple[Dropped, float, Render]] = field(default_factory=dict)
    started: bool = False


@dataclass(slots=True)
class Ledger:
    """Everything the store remembers. Not thread-safe: the store locks. `now` gives unix seconds."""

    now: Callable[[], float]
    max_losses: int
    max_retries: int
    retry_pause_s: float
    jobs: dict[str, JobEntry] = field(default_factory=dict)
    renders: dict[str, Entry] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)  # fingerprint -> render
    flows: dict[tuple[str, str], float] = field(default_factory=dict)
    vtime: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    poison: dict[str, tuple[str, ...]] = field(default_factory=dict)  # render -> failed jobs
    deaths: dict[str, Death] = field(default_factory=dict)  # slot -> its last one
    totals: dict[str, int] = field(default_factory=dict)
    died: dict[str, int] = field(default_factory=dict)  # cause -> workers
    worked: dict[str, float] = field(default_factory=dict)  # pool -> device seconds
    spent: dict[int, dict[str, float]] = field(default_factory=dict)  # day -> owner -> seconds
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = History(self.now)

    def job(self, job_id: str) -> JobEntry:
        try:
            return self.jobs[job_id]
        except KeyError:
            raise JobNotFound from None

    def pending(self) -> list[str]:
        """Queued renders in fair order."""
        waiting = filter(self.waits, self.renders.values())
        return [entry.render.id for entry in sorted(waiting, key=lambda e: (e.tag, e.render.id))]

    def waits(self, entry: Entry) -> bool:
        return entry.render.state is RenderState.queued and entry.due_at <= self.now()

    def holds(self, entry: Entry, token: str) -> bool:
        return entry.token == token and entry.render.state in LEASED

    def start_tag(self, pool: str, flow: str) -> float:
        return max(self.vtime.get(pool, 0.0), self.flows.get((pool, flow), 0.0))

    def enqueue(self, entry: Entry, flow: str, charge: float) -> None:
        pool = entry.render.pool
        entry.tag, entry.flow, entry.charge = self.start_tag(pool, flow), flow, charge
        self.flows[pool, flow] = entry.tag + charge

    def gpu_ms(self, order: Order) -> int:
        return floor(order.cost_s * self.rates.get(order.spec.pool, 1.0) * 1000 + 0.5)

    def owed(self) -> dict[str, Owed]:
        """What each owner has queued; the owner of a render's flow pays for it."""
        queued = [e for e in self.renders.values() if e.render.state is RenderState.queued]
        accounts: dict[str, Owed] = {}
        for owner in sorted({entry.flow.rpartition(":")[0] for entry in queued}):
            mine = [entry for entry in queued if entry.flow.rpartition(":")[0] == owner]
            accounts[owner] = Owed(len(mine), sum(entry.gpu_ms for entry in mine) / 1000)
        return accounts

    def refund(self, entry: Entry) -> None:
        key = (entry.render.pool, entry.flow)
        self.flows[key] = max(self.flows.get(key, 0.0) - entry.charge, 0.0)

    def end(self, entry: Entry, state: RenderState, **fields: object) -> None:
        entry.set(state, finished_at=self.now(), **fields)
        if state is not RenderState.succeeded:
            self.forget(entry.render.fingerprint, entry.render.id)
        self.count(state.value)
        waiters, entry.waiters = sorted(entry.waiters), set()
        for job, index in waiters:
            self.image_done(job, index, entry)

    def image_running(self, job_id: str, index: int, entry: Entry) -> None:
        job = self.jobs[job_id]
        if not job.started:
            job.started = True
            self.history.emit(job_id, "job.running")
        self.history.emit(job_id, "image.running", index, entry.render.attempt)

    def image_done(self, job_id: str, index: int, entry: Entry) -> None:
        job = self.snapshot(job_id)
        status = job.images[index].status
        self.history.emit(job_id, f"image.{status}", index, entry.render.attempt)
        if job.done:
            self.history.emit(job_id, f"job.{job.status}")

    def tell(self, entry: Entry, message: Callable[[JobEntry, int], str | None]) -> None:
        """Say something that passes to each job that waits for this render."""
        for job, index in sorted(entry.waiters):
            if said := message(self.jobs[job], index):
                self.history.tell(job, said)

    def tell_step(self, entry: Entry) -> None:
        step, steps = entry.render.step, entry.render.spec.steps_to_run
        self.tell(
            entry,
            lambda _, index: json.dumps(
                {"type": PROGRESS, "index": index, "step": step, "steps": steps}
            ),
        )

    def give_back(
        self, entry: Entry, lost: bool, cause: Cause = "worker_lost", detail: str = ""
    ) -> None:
        if lost:
            entry.set(last_loss=cause)
            self.deaths[entry.slot or ""] = Death(cause=cause, at=self.now())
        if not entry.wanted:
            return self.end(entry, RenderState.canceled)
        if lost:
            self.count("lost")
            losses = entry.render.losses + 1
            entry.set(losses=losses)
            if losses >= self.max_losses:
                self.poison[entry.render.id] = tuple(sorted({job for job, _ in entry.waiters}))
                message = f"the render took down its worker {losses} times"
                message += f": {detail}" if detail else ""
                code = cause if cause == "container_memory" else "worker_lost"
                return self.end(
                    entry, RenderState.failed, error=Failure(code=code, message=message)
                )
        entry.token = None
        return self.put_down(entry)

    def may_retry(self, entry: Entry, failure: Failure) -> bool:
        return failure.retryable and entry.render.retries < self.max_retries

    def delay(self, entry: Entry, failure: Failure) -> Delayed:
        retries = entry.render.retries + 1
        self.count("retried")
        spread = self.totals["retried"] * 0.6180339887498949 % 1
        pause_s = min(self.retry_pause_s * 4 ** (retries - 1), 60.0) * (1 + spread) / 2
        entry.due_at = self.now() + pause_s
        self.put_down(entry)
        entry.set(retries=retries, error=failure)
        return self.retry(entry)

    def retry(self, entry: Entry) -> Delayed:
        return Delayed(entry.render.retries, max(entry.due_at - self.now(), 0.0))

    def learn(self, entry: Entry, device_s: float) -> None:
        pool, owner = entry.render.pool, entry.flow.rpartition(":")[0]
        today = self.spent.setdefault(int(self.now()) // 86_400, {})
        self.worked[pool] = self.worked.get(pool, 0.0) + device_s
        today[owner] = today.get(owner, 0.0) + device_s
        if device_s > 0 and entry.cost > 0:
            ratio = min(max(device_s / entry.cost, 1e-3), 1e3)
            rate = self.rates.get(entry.render.pool, ratio)
            self.rates[entry.render.pool] = rate + 0.1 * (ratio - rate)

    def put_down(self, entry: Entry) -> None:
        entry.slot = None
        entry.set(RenderState.queued, step=0, worker=None, started_at=None)

    def lose(self, which: Callable[[Entry], bool]) -> Moved:
        held = [e for e in self.renders.values() if e.render.state in LEASED and which(e)]
        for entry in held:
            self.give_back(entry, lost=True)

        def ids(state: RenderState) -> tuple[str, ...]:
            return tuple(e.render.id for e in held if e.render.state is state)

        return Moved(requeued=ids(RenderState.queued), failed=ids(RenderState.failed))

    def drop(self, job: JobEntry, index: int, why: Dropped) -> None:
        entry = self.renders[job.renders[index]]
        waiter = (job.job.id, index)
        if waiter not in entry.waiters:
            return
        if entry.render.state in LEASED and entry.wanted <= 1:
            entry.wanted = 0
            return
        entry.wanted -= 1
        entry.waiters.discard(waiter)
        job.dropped[index] = (why, self.now(), entry.render)
        if not entry.wanted:
            self.refund(entry)
            self.end(entry, RenderState.canceled)
        self.image_done(*waiter, entry)

    def snapshot(self, job_id: str) -> Job:
        """The job, its renders and their places in the queue."""
        entry = self.job(job_id)
        queues: dict[str, list[Entry]] = {}
        for waiting in map(self.renders.__getitem__, self.pending()):
            queues.setdefault(waiting.render.pool, []).append(waiting)
        ranks = {e.render.id: rank for queue in queues.values() for rank, e in enumerate(queue)}
        last = max((r for r in entry.renders if r in ranks), key=ranks.__getitem__, default=None)
        images = []
        for index, name in enumerate(entry.renders):
            image = self._image(entry, index, self.renders[name].render, ranks.get(name))
            if name == last:
                ahead = queues[image.render.pool][: ranks[name]]
                image = image.model_copy(update={"ahead_s": sum(e.cost for e in ahead)})
            images.append(image)
        newest = self.history.newest(job_id)
        return entry.job.model_copy(update={"images": tuple(images), "last_event": newest})

    def _image(self, entry: JobEntry, index: int, render: Render, rank: int | None) -> JobImage:
        if index in entry.dropped:
            why, at, then = entry.dropped[index]
            left = as_left(render, then.attempt, then.step, then.started_at)
            return JobImage(index=index, render=left, cached=False, dropped=why, dropped_at=at)
        return JobImage(
            index=index,
            render=render,
            cached=index in entry.cached or render.found,
            position=rank,
            rate=self.rates.get(render.pool) if render.state in OPEN else None,
        )

    def claimed(self, entry: Entry) -> Claim:
        jobs = tuple(sorted({job for job, _ in entry.waiters}))
        traces = (self.jobs[job].job.trace for job in jobs)
        return Claim(
            render_id=entry.render.id,
            token=entry.token or "",
            fingerprint=entry.render.fingerprint,
            spec=entry.render.spec,
            attempt=entry.render.attempt,
            fresh=entry.fresh,
            jobs=jobs,
            worker=entry.render.worker or "",
            queued_at=entry.render.queued_at,
            claimed_at=self.now(),
            against=entry.render.against,
            previews=entry.previews,
            traces=tuple(trace for trace in traces if trace),
        )

    def forget(self, fingerprint: str, render_id: str) -> None:
        if self.current.get(fingerprint) == render_id:
            del self.current[fingerprint]

    def expire_due(self) -> tuple[str, ...]:
        """Drop what has not started of jobs whose deadline has passed; these jobs."""
        expired: dict[str, None] = {}
        for entry in list(self.jobs.values()):
            deadline = entry.job.deadline_at
            if deadline is None or deadline > self.now() or self.snapshot(entry.job.id).done:
                continue
            for index, render in enumerate(entry.renders):
                seen = self.renders[render].render
                if seen.state is RenderState.queued and seen.attempt == 0:
                    self.drop(entry, index, "expired")
                    expired[entry.job.id] = None
        return tuple(expired)

    def count(self, outcome: str) -> None:
        self.totals[outcome] = self.totals.get(outcome, 0) + 1
