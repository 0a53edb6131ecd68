"""The job store in one process: the same rules as the Lua scripts, without a server or tickets.

For unit tests and for reading; it forgets everything when the process ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import RLock

from shared.errors import IdempotencyConflict, JobFinished, JobNotFound, QueueFull
from shared.jobs import (
    FINAL,
    LEASED,
    OPEN,
    Dropped,
    Failure,
    Job,
    JobImage,
    Render,
    RenderState,
    StoredResult,
    move,
)
from shared.store.port import (
    WEIGHTS,
    Claim,
    Delayed,
    Hold,
    Moved,
    Order,
    Poison,
    PoolStats,
    Stats,
    StoreFault,
    Submission,
    Submitted,
    WorkerStatus,
)


@dataclass(slots=True)
class _Entry:
    """A render and what only the store knows of it."""

    render: Render
    cost: float
    fresh: bool = False
    flow: str = ""
    tag: float = 0.0
    charge: float = 0.0
    token: str | None = None
    slot: str | None = None
    lease_until: float = 0.0
    due_at: float = 0.0  # end of the pause after a fault
    wanted: int = 0
    waiters: set[tuple[str, int]] = field(default_factory=set)

    def set(self, state: RenderState | None = None, **fields: object) -> None:
        if state:
            fields["state"] = move(self.render.state, state)
        self.render = self.render.model_copy(update=fields)


@dataclass(slots=True)
class _JobEntry:
    job: Job
    renders: list[str]
    cached: set[int]
    dropped: dict[int, tuple[Dropped, float]] = field(default_factory=dict)


class MemoryJobStore:
    """See shared/store/port.py. Thread-safe. `clock` gives unix seconds."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        max_losses: int = 3,
        max_retries: int = 3,
        retry_pause_s: float = 1.0,
        max_queue: int = 100_000,
    ) -> None:
        self._now = clock
        self._max_losses = max_losses
        self._max_retries = max_retries
        self._retry_pause_s = retry_pause_s
        self._max_queue = max_queue
        self._lock = RLock()
        self._jobs: dict[str, _JobEntry] = {}
        self._renders: dict[str, _Entry] = {}
        self._current: dict[str, str] = {}
        self._flows: dict[tuple[str, str], float] = {}
        self._vtime: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._idempotency: dict[tuple[str, str], tuple[str, str]] = {}
        self._tokens: dict[str, str] = {}
        self._workers: dict[str, tuple[WorkerStatus, float]] = {}
        self._poison: dict[str, tuple[str, ...]] = {}
        self._condemned: set[str] = set()
        self._secrets: dict[str, str] = {}
        self._totals: dict[str, int] = {}

    # ------------------------------------------------------------------------ the API's side

    def submit(self, submission: Submission) -> Submitted:
        with self._lock:
            job, orders = submission.job, submission.orders
            if earlier := self._replay(submission):
                return earlier
            if job.id in self._jobs:
                return Submitted(self.get(job.id))
            answers = [self._answering(order, job.cache == "bypass") for order in orders]
            self._refuse_when_full(orders, answers)
            entry = self._remember(submission)
            tally = {"hit": 0, "attached": 0, "new": 0}
            for index, (order, answer) in enumerate(zip(orders, answers, strict=True)):
                how = self._wait_for(entry, index, order, answer)
                tally[how] += 1
            return Submitted(self.get(job.id), False, tally["hit"], tally["attached"], tally["new"])

    def _replay(self, submission: Submission) -> Submitted | None:
        if not submission.idempotency:
            return None
        key, body = submission.idempotency
        first = self._idempotency.setdefault((submission.job.owner, key), (submission.job.id, body))
        if first[0] == submission.job.id or first[0] not in self._jobs:
            self._idempotency[submission.job.owner, key] = (submission.job.id, body)
            return None
        if first[1] != body:
            raise IdempotencyConflict
        return Submitted(self.get(first[0]), replayed=True)

    def _answering(self, order: Order, bypass: bool) -> _Entry | None:
        entry = self._renders.get(self._current.get(order.fingerprint, ""))
        if bypass or entry is None or entry.render.state in FINAL - {RenderState.succeeded}:
            return None
        return entry if entry.render.state in FINAL or entry.wanted else None

    def _refuse_when_full(self, orders: object, answers: list[_Entry | None]) -> None:
        new = sum(answer is None for answer in answers)
        if new and len(self._pending()) + new > self._max_queue:
            raise QueueFull

    def _remember(self, submission: Submission) -> _JobEntry:
        job, now = submission.job, self._now()
        deadline = job.deadline_at and job.deadline_at - job.created_at + now
        stamped = job.model_copy(update={"created_at": now, "deadline_at": deadline})
        self._jobs[job.id] = entry = _JobEntry(stamped, [], set())
        return entry

    def _wait_for(self, job: _JobEntry, index: int, order: Order, answer: _Entry | None) -> str:
        flow, weight = f"{job.job.owner}:{job.job.priority}", WEIGHTS[job.job.priority]
        charge = order.cost_s * self._rates.get(order.spec.pool, 1.0) / weight
        entry = answer or self._new_render(order, job.job.cache == "bypass")
        job.renders.append(entry.render.id)
        if entry.render.state is RenderState.succeeded:
            job.cached.add(index)
            self._count("hit")
            return "hit"
        if answer is None or self._is_nearer(entry, flow):
            if answer:
                self._refund(entry)
            self._enqueue(entry, flow, charge)
        entry.wanted += 1
        entry.waiters.add((job.job.id, index))
        if answer:
            self._count("attached")
        return "attached" if answer else "new"

    def _is_nearer(self, entry: _Entry, flow: str) -> bool:
        queued = entry.render.state is RenderState.queued
        return queued and self._start_tag(entry.render.pool, flow) < entry.tag

    def _new_render(self, order: Order, fresh: bool) -> _Entry:
        render = Render(
            id=order.render_id,
            fingerprint=order.fingerprint,
            pool=order.spec.pool,
            spec=order.spec,
            state=RenderState.queued,
            queued_at=self._now(),
        )
        self._renders[render.id] = entry = _Entry(render, order.cost_s, fresh)
        if not fresh:
            self._current[render.fingerprint] = render.id
        return entry

    def get(self, job_id: str) -> Job:
        with self._lock:
            entry = self._job(job_id)
            ranks: dict[str, int] = {}
            for render in self._pending():
                pool = self._renders[render].render.pool
                ranks[render] = sum(self._renders[r].render.pool == pool for r in ranks)
            images = tuple(
                JobImage(
                    index=index,
                    render=self._renders[render].render,
                    cached=index in entry.cached or self._renders[render].render.found,
                    dropped=entry.dropped.get(index, (None, 0))[0],
                    dropped_at=entry.dropped.get(index, (None, None))[1],
                    position=ranks.get(render),
                )
                for index, render in enumerate(entry.renders)
            )
            return entry.job.model_copy(update={"images": images})

    def cancel(self, job_id: str) -> Job:
        with self._lock:
            entry, job = self._job(job_id), self.get(job_id)
            if job.done and job.cancel_requested_at is None:
                raise JobFinished
            if job.cancel_requested_at is None:
                entry.job = entry.job.model_copy(update={"cancel_requested_at": self._now()})
                for index in range(len(entry.renders)):
                    self._drop(entry, index, "canceled")
            return self.get(job_id)

    def forget(self, fingerprint: str, render_id: str) -> None:
        with self._lock:
            if self._current.get(fingerprint) == render_id:
                del self._current[fingerprint]

    # --------------------------------------------------------------------- the worker's side

    def claim(self, pool: str, token: str, slot: str, worker: str, lease_s: float) -> Claim | None:
        with self._lock:
            if token in self._tokens:
                entry = self._renders[self._tokens[token]]
                return self._claimed(entry) if self._holds(entry, token) else None
            self.expire()
            waiting = [r for r in self._pending() if self._renders[r].render.pool == pool]
            if not waiting:
                self._count("idle")
                return None
            entry = self._renders[waiting[0]]
            self._vtime[pool] = max(self._vtime.get(pool, 0.0), entry.tag)
            now = self._now()
            entry.token, entry.slot, entry.lease_until = token, slot, now + lease_s
            attempt = entry.render.attempt + 1
            entry.set(RenderState.running, attempt=attempt, worker=worker, step=0, started_at=now)
            self._tokens[token] = entry.render.id
            self._count("claimed")
            return self._claimed(entry)

    def _claimed(self, entry: _Entry) -> Claim:
        return Claim(
            render_id=entry.render.id,
            token=entry.token or "",
            fingerprint=entry.render.fingerprint,
            spec=entry.render.spec,
            attempt=entry.render.attempt,
            fresh=entry.fresh,
            jobs=tuple(sorted({job for job, _ in entry.waiters})),
            worker=entry.render.worker or "",
            queued_at=entry.render.queued_at,
            claimed_at=self._now(),
        )

    def renew(self, steps: Mapping[str, tuple[str, int]], lease_s: float) -> dict[str, Hold]:
        with self._lock:
            return {token: self._renew(token, *held, lease_s) for token, held in steps.items()}

    def _renew(self, token: str, render_id: str, step: int, lease_s: float) -> Hold:
        entry = self._renders.get(render_id)
        if entry is None or not self._holds(entry, token):
            return "lost"
        entry.lease_until = self._now() + lease_s
        entry.set(step=max(step, entry.render.step))
        stop = entry.render.state is RenderState.running and not entry.wanted
        return "cancel" if stop else "held"

    def storing(self, render_id: str, token: str, step: int) -> bool:
        with self._lock:
            entry = self._renders.get(render_id)
            if entry is None or not self._holds(entry, token):
                return False
            if entry.render.state is RenderState.running:
                entry.set(RenderState.storing, step=step)
            return True

    def close(
        self,
        render_id: str,
        token: str,
        outcome: StoredResult | Failure | None,
        *,
        found: bool = False,
        device_s: float = 0.0,
    ) -> bool | Delayed:
        with self._lock:
            entry = self._renders.get(render_id)
            if entry is None or entry.token != token:
                return False
            if entry.render.state is RenderState.queued:
                return self._retry(entry)
            if entry.render.state not in LEASED:
                return True
            if outcome is None and entry.wanted:
                self._give_back(entry, lost=False)
            elif outcome is None:
                self._end(entry, RenderState.canceled)
            elif isinstance(outcome, Failure) and self._may_retry(entry, outcome):
                if entry.wanted:
                    return self._delay(entry, outcome)
                self._end(entry, RenderState.canceled)
            elif isinstance(outcome, Failure):
                self._end(entry, RenderState.failed, error=outcome)
            elif outcome.token in self._condemned:
                entry.fresh = True
                self._give_back(entry, lost=False)
                return False
            else:
                self._end(entry, RenderState.succeeded, result=outcome, found=found)
                self._current.setdefault(entry.render.fingerprint, entry.render.id)
                self._learn(entry, device_s)
                if found:
                    self._count("found")
            return True

    def _may_retry(self, entry: _Entry, failure: Failure) -> bool:
        return failure.retryable and entry.render.retries < self._max_retries

    def _delay(self, entry: _Entry, failure: Failure) -> Delayed:
        retries = entry.render.retries + 1
        self._count("retried")
        spread = self._totals["retried"] * 0.6180339887498949 % 1
        pause_s = min(self._retry_pause_s * 4 ** (retries - 1), 60.0) * (1 + spread) / 2
        entry.due_at = self._now() + pause_s
        self._put_down(entry)
        entry.set(retries=retries, error=failure)
        return self._retry(entry)

    def _retry(self, entry: _Entry) -> Delayed:
        return Delayed(entry.render.retries, max(entry.due_at - self._now(), 0.0))

    def _learn(self, entry: _Entry, device_s: float) -> None:
        if device_s > 0 and entry.cost > 0:
            ratio = min(max(device_s / entry.cost, 1e-3), 1e3)
            rate = self._rates.get(entry.render.pool, ratio)
            self._rates[entry.render.pool] = rate + 0.1 * (ratio - rate)

    def release(self, render_id: str, token: str, *, lost: bool) -> bool:
        with self._lock:
            entry = self._renders.get(render_id)
            if entry is None or not self._holds(entry, token):
                return False
            self._give_back(entry, lost)
            return True

    def adopt(self, slot: str) -> Moved:
        with self._lock:
            return self._lose(lambda entry: entry.slot == slot)

    def heartbeat(self, status: WorkerStatus, ttl_s: float) -> None:
        with self._lock:
            seen = status.model_copy(update={"last_seen_at": self._now()})
            self._workers[status.name] = (seen, ttl_s)

    def leave(self, name: str) -> None:
        with self._lock:
            self._workers.pop(name, None)

    # --------------------------------------------------------------------- the chores' side

    def reap(self) -> Moved:
        with self._lock:
            now = self._now()
            return self._lose(lambda entry: entry.lease_until <= now)

    def expire(self) -> Moved:
        with self._lock:
            now, expired = self._now(), []
            for entry in list(self._jobs.values()):
                deadline = entry.job.deadline_at
                if deadline is None or deadline > now or self.get(entry.job.id).done:
                    continue
                entry.job = entry.job.model_copy()
                for index, render in enumerate(entry.renders):
                    seen = self._renders[render].render
                    if seen.state is RenderState.queued and seen.attempt == 0:
                        self._drop(entry, index, "expired")
                        expired.append(entry.job.id)
            return Moved(expired=tuple(dict.fromkeys(expired)))

    def reconcile(self) -> int:
        return 0  # no tickets here

    def audit(self) -> Moved:
        return Moved()  # nothing here can be damaged

    # ------------------------------------------------------------------- the operator's side

    def poison(self) -> list[Poison]:
        with self._lock:
            return [
                self._poisoned(self._renders[r].render, jobs) for r, jobs in self._poison.items()
            ]

    def _poisoned(self, render: Render, jobs: tuple[str, ...]) -> Poison:
        return Poison(
            render_id=render.id,
            fingerprint=render.fingerprint,
            spec=render.spec,
            jobs=jobs,
            owners=tuple(sorted({self._jobs[job].job.owner for job in jobs})),
            attempts=render.attempt,
            losses=render.losses,
            failed_at=render.finished_at or 0.0,
            error=render.error or Failure(code="worker_lost", message=""),
        )

    def drop_poison(self, render_id: str) -> bool:
        with self._lock:
            return self._poison.pop(render_id, None) is not None

    def condemn(self, fingerprint: str, token: str) -> bool:
        with self._lock:
            entry = self._renders.get(self._current.get(fingerprint, ""))
            result = entry and entry.render.result
            if entry and (entry.render.state in OPEN or (result and result.token == token)):
                return False
            self._condemned.add(token)
            return True

    def results_in_use(self) -> set[str]:
        with self._lock:
            results = (entry.render.result for entry in self._renders.values())
            return {result.token for result in results if result}

    # ----------------------------------------------------------------------------- everybody's

    def workers(self) -> list[WorkerStatus]:
        with self._lock:
            now = self._now()
            return [
                seen.model_copy(update={"state": "lost"}) if now - seen.last_seen_at > ttl else seen
                for _, (seen, ttl) in sorted(self._workers.items())
            ]

    def stats(self) -> Stats:
        with self._lock:
            pools: dict[str, int] = {entry.render.pool: 0 for entry in self._renders.values()}
            for render in self._pending():
                pools[self._renders[render].render.pool] += 1
            queued = Counter(
                e.render.pool
                for e in self._renders.values()
                if e.render.state is RenderState.queued
            )
            sizes = (
                PoolStats(
                    pool=pool, pending=n, delayed=queued[pool] - n, tickets=0,
                    rate=self._rates.get(pool),
                )
                for pool, n in sorted(pools.items())
            )  # fmt: skip
            leases = sum(entry.render.state in LEASED for entry in self._renders.values())
            return Stats(pools=tuple(sizes), leases=leases, totals=dict(self._totals))

    def secret(self, name: str, proposal: str) -> str:
        with self._lock:
            return self._secrets.setdefault(name, proposal)

    def faults(self) -> tuple[StoreFault, ...]:
        return ()  # it is for tests, and says at its head that it forgets

    def ping(self) -> None:
        return

    # ----------------------------------------------------------------------------- the rules

    def _job(self, job_id: str) -> _JobEntry:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise JobNotFound from None

    def _pending(self) -> list[str]:
        """Queued renders in fair order."""
        waiting = filter(self._waits, self._renders.values())
        return [entry.render.id for entry in sorted(waiting, key=lambda e: (e.tag, e.render.id))]

    def _waits(self, entry: _Entry) -> bool:
        return entry.render.state is RenderState.queued and entry.due_at <= self._now()

    def _holds(self, entry: _Entry, token: str) -> bool:
        return entry.token == token and entry.render.state in LEASED

    def _start_tag(self, pool: str, flow: str) -> float:
        return max(self._vtime.get(pool, 0.0), self._flows.get((pool, flow), 0.0))

    def _enqueue(self, entry: _Entry, flow: str, charge: float) -> None:
        pool = entry.render.pool
        entry.tag, entry.flow, entry.charge = self._start_tag(pool, flow), flow, charge
        self._flows[pool, flow] = entry.tag + charge

    def _refund(self, entry: _Entry) -> None:
        key = (entry.render.pool, entry.flow)
        self._flows[key] = max(self._flows.get(key, 0.0) - entry.charge, 0.0)

    def _end(self, entry: _Entry, state: RenderState, **fields: object) -> None:
        entry.set(state, finished_at=self._now(), **fields)
        if state is not RenderState.succeeded:
            self.forget(entry.render.fingerprint, entry.render.id)
        entry.waiters.clear()
        self._count(state.value)

    def _give_back(self, entry: _Entry, lost: bool) -> None:
        if not entry.wanted:
            return self._end(entry, RenderState.canceled)
        if lost:
            self._count("lost")
            losses = entry.render.losses + 1
            entry.set(losses=losses)
            if losses >= self._max_losses:
                self._poison[entry.render.id] = tuple(sorted({job for job, _ in entry.waiters}))
                message = f"the render took down its worker {losses} times"
                return self._end(
                    entry, RenderState.failed, error=Failure(code="worker_lost", message=message)
                )
        entry.token = None
        return self._put_down(entry)

    def _put_down(self, entry: _Entry) -> None:
        entry.slot = None
        entry.set(RenderState.queued, step=0, worker=None, started_at=None)

    def _lose(self, which: Callable[[_Entry], bool]) -> Moved:
        held = [e for e in self._renders.values() if e.render.state in LEASED and which(e)]
        for entry in held:
            self._give_back(entry, lost=True)

        def ids(state: RenderState) -> tuple[str, ...]:
            return tuple(e.render.id for e in held if e.render.state is state)

        return Moved(requeued=ids(RenderState.queued), failed=ids(RenderState.failed))

    def _drop(self, job: _JobEntry, index: int, why: Dropped) -> None:
        entry = self._renders[job.renders[index]]
        waiter = (job.job.id, index)
        if waiter not in entry.waiters:
            return
        if entry.render.state in LEASED and entry.wanted <= 1:
            entry.wanted = 0
            return
        entry.wanted -= 1
        entry.waiters.discard(waiter)
        job.dropped[index] = (why, self._now())
        if not entry.wanted:
            self._refund(entry)
            self._end(entry, RenderState.canceled)

    def _count(self, outcome: str) -> None:
        self._totals[outcome] = self._totals.get(outcome, 0) + 1
