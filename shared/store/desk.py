"""Taking a submission in the memory store: what `lua/submit.lua` does on Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from shared.errors import IdempotencyConflict, NotStored, QueueFull
from shared.jobs import FINAL, LEASED, Render, RenderState
from shared.store.attendance import Attendances
from shared.store.ledger import Entry, JobEntry, Ledger
from shared.store.limits import Tempo, too_much
from shared.store.queries import Forecast, Way
from shared.store.values import WEIGHTS, Order, Owed, Submission, Submitted


class Desk:
    """Where orders are taken: replay, cache, single-flight, pending, record."""

    def __init__(self, ledger: Ledger, max_queue: int, attendances: Attendances) -> None:
        self._ledger = ledger
        self._max_queue = max_queue
        self.tempo = Tempo(ledger.now)
        self._attendances = attendances
        self.idempotency: dict[tuple[str, str], tuple[str, str]] = {}

    def take(self, submission: Submission) -> Submitted:
        job, orders = submission.job, submission.orders
        if earlier := self._replay(submission):
            return earlier
        if job.id in self._ledger.jobs:
            return self._known(job.id, submission)
        if earlier := self._attach(submission):
            return earlier
        whole_at = self.tempo.next_whole_at(job.owner, submission.limits)
        answers = [self._answering(order, job.cache == "bypass") for order in orders]
        if submission.stored_only and not all(a and a.render.state in FINAL for a in answers):
            raise NotStored
        self._refuse_when_full(orders, answers)
        self._refuse_beyond_quota(submission, answers)
        self.tempo.whole_at[job.owner] = whole_at
        entry = self._remember(submission)
        self._ledger.history.emit(job.id, "job.queued")
        tally = {"hit": 0, "attached": 0, "new": 0}
        for index, (order, answer) in enumerate(zip(orders, answers, strict=True)):
            how = self._wait_for(entry, index, order, answer, submission.weight)
            tally[how] += 1
        if tally["hit"] == len(orders):
            self._ledger.history.emit(job.id, "job.succeeded")
        if submission.attendance and not self._ledger.snapshot(job.id).done:
            self._attendances.hold(job.id, job.owner, submission.attendance)
        taken = self._known(job.id, submission)
        return replace(taken, hits=tally["hit"], attached=tally["attached"], made=tally["new"])

    def _known(self, job_id: str, submission: Submission, *, replayed: bool = False) -> Submitted:
        rate = self.tempo.rate(submission.job.owner, submission.limits)
        return Submitted(self._ledger.snapshot(job_id), replayed=replayed, rate=rate)

    def foresee(self, submission: Submission) -> Forecast:
        """What the order would meet. Changes nothing."""
        job, ledger = submission.job, self._ledger
        pool = submission.orders[0].spec.pool
        weight = WEIGHTS[job.priority] * submission.weight
        pending = map(ledger.renders.__getitem__, ledger.pending())
        queue = [entry for entry in pending if entry.render.pool == pool]
        rate, tag = ledger.rates.get(pool), ledger.start_tag(pool, f"{job.owner}:{job.priority}")
        own: list[float] = []
        ways: list[Way] = []
        places: list[tuple[int, float]] = []  # rank, work before it
        for order in submission.orders:
            answer = self._answering(order, job.cache == "bypass")
            ways.append(_way(answer))
            if answer is None:
                ahead = [entry.cost for entry in queue if entry.tag <= tag] + own
                places.append((len(ahead), sum(ahead)))
                own.append(order.cost_s)
                tag += order.cost_s * (rate or 1.0) / weight
            elif answer in queue:
                ahead = [entry.cost for entry in queue[: queue.index(answer)]]
                places.append((len(ahead), sum(ahead)))
        last, ahead_s = max(places, default=(None, 0.0))
        first = min(places)[0] if places else None
        mine = ledger.owed().get(job.owner, Owed())
        return Forecast(
            tuple(ways), first, last, ahead_s, rate, len(queue), mine.renders, mine.gpu_s
        )

    def _replay(self, submission: Submission) -> Submitted | None:
        if not submission.idempotency:
            return None
        key, body = submission.idempotency
        first = self.idempotency.setdefault((submission.job.owner, key), (submission.job.id, body))
        if first[0] == submission.job.id or first[0] not in self._ledger.jobs:
            self.idempotency[submission.job.owner, key] = (submission.job.id, body)
            return None
        if first[1] != body:
            raise IdempotencyConflict
        if submission.attendance is None:  # whoever asks now will look again by himself
            self._attendances.held_until.pop(first[0], None)
        return self._join(first[0], submission)

    def _attach(self, submission: Submission) -> Submitted | None:
        by = submission.attendance
        job = by and by.repeats and self._attendances.same_order(submission.job.owner, by.body)
        return self._join(job, submission) if job else None

    def _join(self, job_id: str, submission: Submission) -> Submitted:
        if by := submission.attendance:
            self._attendances.attend(job_id, by.client, by.gone_s)
        return self._known(job_id, submission, replayed=True)

    def _answering(self, order: Order, bypass: bool) -> Entry | None:
        entry = self._ledger.renders.get(self._ledger.current.get(order.fingerprint, ""))
        if bypass or entry is None or entry.render.state in FINAL - {RenderState.succeeded}:
            return None
        return entry if entry.render.state in FINAL or entry.wanted else None

    def _refuse_when_full(self, orders: Sequence[Order], answers: list[Entry | None]) -> None:
        new = sum(answer is None for answer in answers)
        pool = orders[0].spec.pool
        queue = [r for r in self._ledger.pending() if self._ledger.renders[r].render.pool == pool]
        over = len(queue) + new - self._max_queue
        if new and over > 0:
            wait_s = self.tempo.drained_in_s(f"pool:{pool}", over)
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
            attempt = entry.render.attempt
            self._ledger.history.emit(job.job.id, "image.succeeded", index, attempt)
            return "hit"
        if answer is None or self._is_nearer(entry, flow):
            if answer:
                self._ledger.refund(entry)
            self._ledger.enqueue(entry, flow, charge)
            entry.gpu_ms = self._ledger.gpu_ms(order)
        entry.wanted += 1
        entry.previews = max(entry.previews, job.job.input.get("partial_images", 0))
        entry.waiters.add((job.job.id, index))
        if entry.render.state in LEASED:
            self._ledger.image_running(job.job.id, index, entry)
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
            cost_s=order.cost_s,
            state=RenderState.queued,
            queued_at=self._ledger.now(),
            against=order.against,
        )
        self._ledger.renders[render.id] = entry = Entry(render, order.cost_s, fresh)
        if not fresh:
            self._ledger.current[render.fingerprint] = render.id
        return entry


def _way(answer: Entry | None) -> Way:
    if answer is None:
        return "new"
    return "hit" if answer.render.state is RenderState.succeeded else "attached"
