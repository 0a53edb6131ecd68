"""Many jobs at once, and their end, in the memory store."""

from __future__ import annotations

from itertools import islice
from threading import RLock

from shared.errors import JobNotFinished
from shared.store.attendance import Attendances
from shared.store.desk import Desk
from shared.store.ledger import Ledger
from shared.store.queries import Forecast, Gathering, JobPage, JobQuery, Owned, came_at
from shared.store.values import Submission


class MemoryIndex:
    """Part of MemoryJobStore; see shared/store/port.py."""

    _lock: RLock
    _ledger: Ledger
    _attendances: Attendances
    _desk: Desk
    _idempotency: dict[tuple[str, str], tuple[str, str]]
    _tokens: dict[str, str]

    def jobs(self, query: JobQuery) -> JobPage:
        with self._lock:
            gathering = Gathering(query)
            while wanted := gathering.wants:
                rest = self._behind(query, gathering.last)
                ids = list(islice(rest, wanted))
                jobs = [(job_id, self._ledger.snapshot(job_id)) for job_id in ids]
                gathering.add(jobs, more=len(rest) > len(ids))
            return gathering.page()

    def _behind(self, query: JobQuery, cursor: str | None) -> list[str]:
        """The ids that follow the cursor, in the order that was asked for."""
        since, until = query.since or 0.0, query.until or float("inf")
        came = sorted(
            (entry.job.created_at, job_id)
            for job_id, entry in self._ledger.jobs.items()
            if query.owner in (None, entry.job.owner) and since <= entry.job.created_at < until
        )
        if cursor:
            known = self._ledger.jobs.get(cursor)
            here = (known.job.created_at, cursor) if known else (came_at(cursor), "")
            came = [one for one in came if (one < here if query.newest_first else one > here)]
        return [job_id for _, job_id in (reversed(came) if query.newest_first else came)]

    def foresee(self, submission: Submission) -> Forecast:
        with self._lock:
            return self._desk.foresee(submission)

    def disown(self, job_id: str) -> tuple[Owned, ...]:
        with self._lock:
            own = [self._ledger.renders[render].render for render in self._own(job_id)]
            for render in own:
                if render.result:
                    self._ledger.forget(render.fingerprint, render.id)
            return tuple(Owned(r.id, r.result, r.found) for r in own if r.result)

    def delete(self, job_id: str) -> None:
        with self._lock:
            if job_id not in self._ledger.jobs:
                return
            for render in self._own(job_id):
                self._ledger.forget(self._ledger.renders.pop(render).render.fingerprint, render)
                self._ledger.poison.pop(render, None)
                for token in [t for t, held in self._tokens.items() if held == render]:
                    del self._tokens[token]
            for key in [k for k, (job, _) in self._idempotency.items() if job == job_id]:
                del self._idempotency[key]
            self._attendances.held_until.pop(job_id, None)
            self._attendances.clients.pop(job_id, None)
            self._ledger.history.lines.pop(job_id, None)
            del self._ledger.jobs[job_id]

    def _own(self, job_id: str) -> list[str]:
        """The renders that no other job refers to. Raises JobNotFound, JobNotFinished."""
        entry = self._ledger.job(job_id)
        if not self._ledger.snapshot(job_id).done:
            raise JobNotFinished
        others = (e for other, e in self._ledger.jobs.items() if other != job_id)
        used = {render for other in others for render in other.renders}
        return [render for render in entry.renders if render not in used]
