"""The job store in one process: the same rules as the Lua scripts, without a server or tickets.

For unit tests and for reading; it forgets everything when the process ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from threading import RLock

from shared.errors import JobFinished
from shared.jobs import (
    LEASED,
    OPEN,
    Failure,
    Job,
    Render,
    RenderState,
    Verdict,
)
from shared.store.attendance import Attendances, MemoryAttendance
from shared.store.clock import FarmClock
from shared.store.desk import Desk
from shared.store.ledger import Ledger
from shared.store.memory_claims import MemoryClaims
from shared.store.memory_events import MemoryEvents
from shared.store.memory_index import MemoryIndex
from shared.store.memory_outbox import MemoryOutbox, Parcels
from shared.store.memory_queue import MemoryQueue
from shared.store.values import (
    UNWELL_S,
    Cause,
    Claim,
    Death,
    Delayed,
    Hold,
    Moved,
    Outcome,
    Owed,
    Poison,
    PoolStats,
    Standing,
    Stats,
    StoreFault,
    Submission,
    Submitted,
    WorkerStatus,
)


class MemoryJobStore(
    MemoryAttendance, MemoryClaims, MemoryEvents, MemoryIndex, MemoryOutbox, MemoryQueue
):
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
        self._now = FarmClock(clock)
        self._lock = RLock()
        self._ledger = Ledger(self._now, max_losses, max_retries, retry_pause_s)
        self._parcels = Parcels(self._ledger)
        self._ledger.history.post = self._parcels.post
        self._attendances = Attendances(self._ledger)
        self._desk = Desk(self._ledger, max_queue, self._attendances)
        self._idempotency = self._desk.idempotency
        self._notes: dict[str, dict[str, str]] = {}
        self._tokens: dict[str, str] = {}
        self._workers: dict[str, tuple[WorkerStatus, float]] = {}
        self._condemned: set[str] = set()
        self._draining: set[str] = set()
        self._unwell: dict[str, dict[str, float]] = {}
        self._secrets: dict[str, str] = {}
        self._reaped_at = 0.0

    # ------------------------------------------------------------------------ the API's side

    def submit(self, submission: Submission) -> Submitted:
        with self._lock:
            return self._desk.take(submission)

    def get(self, job_id: str) -> Job:
        with self._lock:
            return self._ledger.snapshot(job_id)

    def cancel(self, job_id: str) -> Job:
        with self._lock:
            entry, job = self._ledger.job(job_id), self.get(job_id)
            if job.done and job.cancel_requested_at is None:
                raise JobFinished
            if job.cancel_requested_at is None:
                entry.job = entry.job.model_copy(update={"cancel_requested_at": self._now()})
                for index in range(len(entry.renders)):
                    self._ledger.drop(entry, index, "canceled")
            return self.get(job_id)

    def forget(self, fingerprint: str, render_id: str) -> None:
        with self._lock:
            self._ledger.forget(fingerprint, render_id)

    # --------------------------------------------------------------------- the worker's side

    def claim(self, pool: str, token: str, slot: str, worker: str, lease_s: float) -> Claim | None:
        with self._lock:
            if token in self._tokens:
                known = self._ledger.renders.get(self._tokens[token])
                held = known is not None and self._ledger.holds(known, token)
                return self._ledger.claimed(known) if known and held else None
            self.expire()
            waiting = [
                r for r in self._ledger.pending() if self._ledger.renders[r].render.pool == pool
            ]
            if not waiting:
                self._ledger.count("idle")
                return None
            entry = self._ledger.renders[waiting[0]]
            self._desk.tempo.quicken(f"pool:{pool}")
            self._desk.tempo.quicken(f"owner:{entry.flow.rpartition(':')[0]}")
            self._ledger.vtime[pool] = max(self._ledger.vtime.get(pool, 0.0), entry.tag)
            now = self._now()
            entry.token, entry.slot, entry.lease_until = token, slot, now + lease_s
            attempt = entry.render.attempt + 1
            entry.set(RenderState.running, attempt=attempt, worker=worker, step=0, started_at=now)
            self._tokens[token] = entry.render.id
            self._ledger.count("claimed")
            for job, index in sorted(entry.waiters):
                self._ledger.image_running(job, index, entry)
            return self._ledger.claimed(entry)

    def renew(self, steps: Mapping[str, tuple[str, int]], lease_s: float) -> dict[str, Hold]:
        with self._lock:
            return {token: self._renew(token, *held, lease_s) for token, held in steps.items()}

    def _renew(self, token: str, render_id: str, step: int, lease_s: float) -> Hold:
        entry = self._ledger.renders.get(render_id)
        if entry is None or not self._ledger.holds(entry, token):
            return "lost"
        entry.lease_until = self._now() + lease_s
        if step > entry.render.step:
            entry.set(step=step)
            self._ledger.tell_step(entry)
        stop = entry.render.state is RenderState.running and not entry.wanted
        return "cancel" if stop else "held"

    def storing(self, render_id: str, token: str, step: int) -> bool:
        with self._lock:
            entry = self._ledger.renders.get(render_id)
            if entry is None or not self._ledger.holds(entry, token):
                return False
            if entry.render.state is RenderState.running:
                entry.set(RenderState.storing, step=step)
                self._ledger.tell_step(entry)
            return True

    def close(
        self,
        render_id: str,
        token: str,
        outcome: Outcome,
        *,
        found: bool = False,
        device_s: float = 0.0,
    ) -> bool | Delayed:
        with self._lock:
            entry = self._ledger.renders.get(render_id)
            if entry is None or entry.token != token:
                return False
            if entry.render.state is RenderState.queued:
                return self._ledger.retry(entry)
            if entry.render.state not in LEASED:
                return True
            if outcome is None and entry.wanted:
                self._ledger.give_back(entry, lost=False)
            elif outcome is None:
                self._ledger.end(entry, RenderState.canceled)
            elif isinstance(outcome, Failure) and self._ledger.may_retry(entry, outcome):
                if entry.wanted:
                    return self._ledger.delay(entry, outcome)
                self._ledger.end(entry, RenderState.canceled)
            elif isinstance(outcome, Failure):
                self._ledger.end(entry, RenderState.failed, error=outcome)
            elif isinstance(outcome, Verdict):
                self._ledger.end(entry, RenderState.succeeded, verdict=outcome)
                self._ledger.learn(entry, device_s)
            elif outcome.token in self._condemned:
                entry.fresh = True
                self._ledger.give_back(entry, lost=False)
                return False
            else:
                self._ledger.end(entry, RenderState.succeeded, result=outcome, found=found)
                if outcome.exact:
                    self._ledger.current.setdefault(entry.render.fingerprint, entry.render.id)
                else:
                    self._ledger.forget(entry.render.fingerprint, entry.render.id)
                self._ledger.learn(entry, device_s)
                if found:
                    self._ledger.count("found")
            return True

    def release(
        self,
        render_id: str,
        token: str,
        *,
        lost: bool,
        cause: Cause = "worker_lost",
        detail: str = "",
    ) -> bool:
        with self._lock:
            entry = self._ledger.renders.get(render_id)
            if entry is None or not self._ledger.holds(entry, token):
                return False
            self._ledger.give_back(entry, lost, cause, detail)
            return True

    def adopt(self, slot: str) -> Moved:
        with self._lock:
            return self._ledger.lose(lambda entry: entry.slot == slot)

    def died(self, slot: str, cause: Cause) -> None:
        with self._lock:
            self._ledger.deaths[slot] = Death(cause=cause, at=self._now())
            self._ledger.died[cause] = self._ledger.died.get(cause, 0) + 1

    def unwell(self, slot: str, token: str) -> None:
        with self._lock:
            self._unwell.setdefault(slot, {}).setdefault(token, self._now())

    def heartbeat(self, status: WorkerStatus, ttl_s: float) -> Standing:
        with self._lock:
            now, name = self._now(), status.name
            seen = status.model_copy(update={"last_seen_at": now})
            self._workers[name] = (seen, ttl_s)
            exits = self._unwell.get(name, {}).values()
            return Standing(name in self._draining, sum(at >= now - UNWELL_S for at in exits))

    def leave(self, name: str) -> None:
        with self._lock:
            self._workers.pop(name, None)

    # --------------------------------------------------------------------- the chores' side

    def reap(self) -> Moved:
        with self._lock:
            self._now.turn()
            now = self._reaped_at = self._now()
            return self._ledger.lose(lambda entry: entry.lease_until <= now)

    def expire(self) -> Moved:
        with self._lock:
            return Moved(expired=self._ledger.expire_due())

    def reconcile(self) -> int:
        return 0  # no tickets here

    def audit(self) -> Moved:
        return Moved()  # nothing here can be damaged

    # ------------------------------------------------------------------- the operator's side

    def poison(self) -> list[Poison]:
        with self._lock:
            return [
                self._poisoned(self._ledger.renders[r].render, jobs)
                for r, jobs in self._ledger.poison.items()
            ]

    def _poisoned(self, render: Render, jobs: tuple[str, ...]) -> Poison:
        known = self._ledger.jobs
        return Poison(
            render_id=render.id,
            fingerprint=render.fingerprint,
            spec=render.spec,
            jobs=jobs,
            owners=tuple(sorted({known[job].job.owner for job in jobs if job in known})),
            attempts=render.attempt,
            losses=render.losses,
            failed_at=render.finished_at or 0.0,
            error=render.error or Failure(code="worker_lost", message=""),
        )

    def drop_poison(self, render_id: str) -> bool:
        with self._lock:
            return self._ledger.poison.pop(render_id, None) is not None

    def condemn(self, fingerprint: str, token: str) -> bool:
        with self._lock:
            entry = self._ledger.renders.get(self._ledger.current.get(fingerprint, ""))
            result = entry and entry.render.result
            if entry and (entry.render.state in OPEN or (result and result.token == token)):
                return False
            self._condemned.add(token)
            return True

    def results_in_use(self, but: Collection[str] = ()) -> set[str]:
        with self._lock:
            others = (e.render for e in self._ledger.renders.values() if e.render.id not in but)
            results = [render.result for render in others]
            return {result.token for result in results if result}

    def inputs_in_use(self) -> set[str]:
        with self._lock:
            return {i for entry in self._ledger.renders.values() for i in entry.render.spec.inputs}

    def drain(self, name: str) -> None:
        with self._lock:
            self._draining.add(name)

    def lift(self, name: str) -> bool:
        with self._lock:
            stood = name in self._draining or name in self._unwell
            self._draining.discard(name)
            self._unwell.pop(name, None)
            return stood

    # ----------------------------------------------------------------------------- everybody's

    def workers(self) -> list[WorkerStatus]:
        with self._lock:
            return [self._worker(*self._workers[name]) for name in sorted(self._workers)]

    def _worker(self, status: WorkerStatus, ttl_s: float) -> WorkerStatus:
        held = (e for e in self._ledger.renders.values() if e.render.state in LEASED)
        known: dict[str, object] = {
            "holding": sum(entry.slot == status.name for entry in held),
            "last_death": self._ledger.deaths.get(status.name),
        }
        if self._now() - status.last_seen_at > ttl_s:
            known["state"] = "lost"
        return status.model_copy(update=known)

    def owed(self) -> dict[str, Owed]:
        with self._lock:
            return self._ledger.owed()

    def stats(self) -> Stats:
        with self._lock:
            pools: dict[str, int] = {
                entry.render.pool: 0 for entry in self._ledger.renders.values()
            }
            for render in self._ledger.pending():
                pools[self._ledger.renders[render].render.pool] += 1
            queued = Counter(
                e.render.pool
                for e in self._ledger.renders.values()
                if e.render.state is RenderState.queued
            )
            sizes = (
                PoolStats(
                    pool=pool, pending=n, delayed=queued[pool] - n, tickets=0,
                    rate=self._ledger.rates.get(pool),
                )
                for pool, n in sorted(pools.items())
            )  # fmt: skip
            leases = sum(entry.render.state in LEASED for entry in self._ledger.renders.values())
            return Stats(
                pools=tuple(sizes),
                leases=leases,
                totals=dict(self._ledger.totals),
                deaths=dict(self._ledger.died),
                worked_s=dict(self._ledger.worked),
                poisoned=len(self._ledger.poison),
                reaped_at=self._reaped_at,
            )

    def secret(self, name: str, proposal: str) -> str:
        with self._lock:
            return self._secrets.setdefault(name, proposal)

    def faults(self) -> tuple[StoreFault, ...]:
        return ()  # it is for tests, and says at its head that it forgets

    def ping(self) -> None:
        return
