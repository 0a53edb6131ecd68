"""Clients that wait on an open connection, in the memory store: their part of `lua/lib/attendance.lua`."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock

from shared.errors import JobNotFound
from shared.jobs import OPEN, Job, RenderState
from shared.store.ledger import Ledger
from shared.store.values import ATTACH_S, Attendance, Moved


@dataclass(slots=True)
class Attendances:
    """Who waits for which job. Not thread-safe: the store locks."""

    ledger: Ledger
    held_until: dict[str, float] = field(default_factory=dict)  # job -> unix seconds
    clients: dict[str, dict[str, float]] = field(default_factory=dict)  # job -> client -> the same
    bodies: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # oldest first

    def hold(self, job_id: str, owner: str, by: Attendance) -> None:
        """A new job that ends with its client."""
        self.held_until[job_id] = self.ledger.now() + by.gone_s
        self.attend(job_id, by.client, by.gone_s)
        self.bodies.setdefault((owner, by.body), []).append(job_id)

    def attend(self, job_id: str, client: str, gone_s: float) -> None:
        if job_id in self.ledger.jobs and not self.ledger.snapshot(job_id).done:
            until = self.ledger.now() + gone_s
            self.clients.setdefault(job_id, {})[client] = until
            self._prolong(job_id, until)

    def depart(self, job_id: str, client: str, gone_s: float) -> None:
        self.clients.get(job_id, {}).pop(client, None)
        self._prolong(job_id, self.ledger.now() + gone_s)

    def _prolong(self, job_id: str, until: float) -> None:
        if job_id in self.held_until:
            self.held_until[job_id] = max(until, self.held_until[job_id])

    def same_order(self, owner: str, body: str) -> str | None:
        """The job that a repeated request means: one whose client has left, else the oldest."""
        jobs = [job for job in self.bodies.get((owner, body), ()) if self._is_attachable(job)]
        return next(filter(self.is_alone, jobs), jobs[0] if jobs else None)

    def is_alone(self, job_id: str) -> bool:
        return all(t <= self.ledger.now() for t in self.clients.get(job_id, {}).values())

    def _is_attachable(self, job_id: str) -> bool:
        try:
            job = self.ledger.snapshot(job_id)
        except JobNotFound:
            return False
        good = OPEN | {RenderState.succeeded}
        if job.cancel_requested_at or any(image.status not in good for image in job.images):
            return False
        ends = [image.finished_at or 0.0 for image in job.images]
        return not job.done or max([job.created_at, *ends]) >= self.ledger.now() - ATTACH_S

    def abandon(self, job_id: str) -> int:
        """How many queued images were canceled."""
        entry = self.ledger.job(job_id)
        queued = [
            index
            for index, image in enumerate(self.ledger.snapshot(job_id).images)
            if image.status is RenderState.queued
        ]
        for index in queued:
            self.ledger.drop(entry, index, "canceled")
        self.held_until.pop(job_id, None)
        return len(queued)


class MemoryAttendance:
    """Part of MemoryJobStore; see shared/store/port.py."""

    _lock: RLock
    _ledger: Ledger
    _attendances: Attendances
    _idempotency: dict[tuple[str, str], tuple[str, str]]
    _notes: dict[str, dict[str, str]]

    def attend(self, job_id: str, client: str, gone_s: float) -> None:
        with self._lock:
            self._attendances.attend(job_id, client, gone_s)

    def depart(self, job_id: str, client: str, gone_s: float) -> None:
        with self._lock:
            self._attendances.depart(job_id, client, gone_s)

    def abandon(self, job_id: str, client: str) -> Job:
        with self._lock:
            self._attendances.clients.get(job_id, {}).pop(client, None)
            held = job_id in self._attendances.held_until
            if held and self._attendances.is_alone(job_id):
                self._abandon(job_id)
            return self._ledger.snapshot(job_id)

    def _abandon(self, job_id: str) -> bool:
        canceled = self._attendances.abandon(job_id) > 0
        if canceled:
            owner = self._ledger.job(job_id).job.owner
            for key, (job, _) in list(self._idempotency.items()):
                if job == job_id and key[0] == owner:
                    del self._idempotency[key]
        return canceled

    def unattended(self) -> Moved:
        with self._lock:
            held = list(self._attendances.held_until.items())
            due = [job for job, until in held if until <= self._ledger.now()]
            return Moved(abandoned=tuple(job for job in due if self._abandon(job)))

    def note(self, owner: str, name: str, value: str) -> None:
        with self._lock:
            self._notes.setdefault(owner, {})[name] = value

    def notes(self, owner: str) -> dict[str, str]:
        with self._lock:
            return dict(self._notes.get(owner, {}))
