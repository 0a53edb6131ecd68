"""Taking a submission in the memory store: what `lua/submit.lua` does on Redis."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from shared.errors import IdempotencyConflict, QueueFull
from shared.jobs import FINAL, Render, RenderState
from shared.store.ledger import Entry, JobEntry, Ledger
from shared.store.limits import Tempo, too_much
from shared.store.values import WEIGHTS, Order, Owed, Submission, Submitted


class Desk:
    """Where orders are taken: replay, cache, single-flight, pending, record."""

    def __init__(self, ledger: Ledger, max_queue: int) -> None:
        self._ledger = ledger
        self._max_queue = max_queue
        self.tempo = Tempo(ledger.now)
        self._idempotency: dict[tuple[str, str], tuple[str, str]] = {}

    def take(self, submission: Submission) -> Submitted:
        job, orders = submission.job, submission.orders
        if earlier := self._replay(submission):
            return earlier
        if job.id in self._ledger.jobs:
            rate = self.tempo.rate(job.owner, submission.limits)
            return Submitted(self._ledger.snapshot(job.id), rate=rate)
        whole_at = self.tempo.next_whole_at(job.owner, submission.limits)
        answers = [self._answering(order, job.cache == "bypass") for order in orders]
        self._refuse_when_full(orders, answers)
        self._refuse_beyond_quota(submission, answers)
        self.tempo.whole_at[job.owner] = whole_at
        entry = self._remember(submission)
        tally = {"hit": 0, "attached": 0, "new": 0}
        for index, (order, answer) in enumerate(zip(orders, answers, strict=True)):
            how = self._wait_for(entry, index, order, answer, submission.weight)
            tally[how] += 1
        rate = self.tempo.rate(job.owner, submission.limits)
        tallied = tally["hit"], tally["attached"], tally["new"]
        return Submitted(self._ledger.snapshot(job.id), False, *tallied, rate)

    def _replay(self, submission: Submission) -> Submitted | None:
        if not submission.idempotency:
            return None
        key, body = submission.idempotency
        first = self._idempotency.setdefault((submission.job.owner, key), (submission.job.id, body))
        if first[0] == submission.job.id or first[0] not in self._ledger.jobs:
            self._idempotency[submission.job.owner, key] = (submission.job.id, body)
            return None
        if first[1] != body:
            raise IdempotencyConflict
        rate = self.tempo.rate(submission.job.owner, submission.limits)
        return Submitted(self._ledger.snapshot(first[0]), replayed=True, rate=rate)

    def _answering(self, order: Order, bypass: bool) -> Entry | None:
        entry = self._ledger.renders.get(self._ledger.current.get(order.fingerprint, ""))
        if bypass or entry is None or entry.render.state in FINAL - {RenderState.succeeded}:
            return None
        return entry if entry.render.state in FINAL or entry.wanted else None

    def _refuse_when_full(self, orders: Sequence[Order], answers: list[Entry | None]) -> None:
        new = sum(answer is None for answer in answers)
        over = len(self._ledger.pending()) + new - self._max_queue
        if new and over > 0:
            wait_s = self.tempo.drained_in_s(f"pool:{orders[0].spec.pool}", over)
            raise QueueFull(retry_after_s=wait_s)

    def _refuse_beyond_quota(self, submission: Submission, answers: list[Entry | None]) -> None:
        limits, owner = submission.limits, submission.job.owner
        fresh = [o for o, answer in zip(submission.orders, answers, strict=True) if answer is None]
        owed = self._ledger.owed().get(owner, Owed())
        rate = self.tempo.rate(owner, limits)
        over = owed.renders + len(fresh) - limits.max_queued
        if fresh and limits.max_queued and over > 0:
            wait_s = self.tempo.drained_in_s(f"owner:{owner}", over)
            raise too_much(limits, "renders", len(fresh), wait_s, rate)
        more_s = sum(self._ledger.gpu_ms(order) for order in fresh) / 1000
        over_s = owed.gpu_s + more_s - limits.max_queued_gpu_s
        if fresh and limits.max_queued_gpu_s and over_s > 0:
            each_s = max(owed.gpu_s, 1e-3) / max(owed.renders, 1)
            wait_s = self.tempo.drained_in_s(f"owner:{owner}", ceil(over_s / each_s))
            raise too_much(limits, "gpu_s", more_s, wait_s, rate)

    def _remember(self, submission: Submission) -> JobEntry:
        job, now = submission.job, self._ledger.now()
        deadline = job.deadline_at and job.deadline_at - job.created_at + now
        stamped = job.model_copy(update={"created_at": now, "deadline_at": deadline})
        self._ledger.jobs[job.id] = entry = JobEntry(stamped, [], set())
        return entry

    def _wait_for(
        self, job: JobEntry, index: int, order: Order, answer: Entry | None, weight: float
    ) -> str:
        flow = f"{job.job.owner}:{job.job.priority}"
        weight *= WEIGHTS[job.job.priority]
        charge = order.cost_s * self._ledger.rates.get(order.spec.pool, 1.0) / weight
        entry = answer or self._new_render(order, job.job.cache == "bypass")
        job.renders.append(entry.render.id)
        if entry.render.state is RenderState.succeeded:
            job.cached.add(index)
            self._ledger.count("hit")
            return "hit"
        if answer is None or self._is_nearer(entry, flow):
            if answer:
                self._ledger.refund(entry)
            self._ledger.enqueue(entry, flow, charge)
            entry.gpu_ms = self._ledger.gpu_ms(order)
        entry.wanted += 1
        entry.waiters.add((job.job.id, index))
        if answer:
            self._ledger.count("attached")
        return "attached" if answer else "new"

    def _is_nearer(self, entry: Entry, flow: str) -> bool:
        queued = entry.render.state is RenderState.queued
        return queued and self._ledger.start_tag(entry.render.pool, flow) < entry.tag

    def _new_render(self, order: Order, fresh: bool) -> Entry:
        render = Render(
            id=order.render_id,
            fingerprint=order.fingerprint,
            pool=order.spec.pool,
            spec=order.spec,
            state=RenderState.queued,
            queued_at=self._ledger.now(),
        )
        self._ledger.renders[render.id] = entry = Entry(render, order.cost_s, fresh)
        if not fresh:
            self._ledger.current[render.fingerprint] = render.id
        return entry
