"""Many jobs at once, and their end, on Redis."""

from __future__ import annotations

import json
from collections.abc import Iterable

from shared.errors import JobNotFinished, JobNotFound
from shared.jobs import Job, StoredResult
from shared.store import codec
from shared.store.faults import translated
from shared.store.queries import Forecast, Gathering, JobPage, JobQuery, Owned, came_at
from shared.store.redis_scripts import RedisScripts
from shared.store.values import WEIGHTS, Submission


class RedisIndex(RedisScripts):
    """Part of RedisJobStore; see shared/store/port.py."""

    @translated
    def jobs(self, query: JobQuery) -> JobPage:
        gathering = Gathering(query)
        while wanted := gathering.wants:
            more, *ids = self._run("jobs", *_stretch(query, gathering.last, wanted))
            gathering.add(zip(ids, self._look(ids), strict=True), more=bool(more))
        return gathering.page()

    def _look(self, ids: Iterable[str]) -> list[Job | None]:
        """Each as one moment sees it, all in one round trip."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            self._scripts["get"](args=[job_id], client=pipe)
        return [codec.decode_job(seen) if seen else None for seen in pipe.execute()]

    @translated
    def foresee(self, submission: Submission) -> Forecast:
        weight = WEIGHTS[submission.job.priority] * submission.weight
        fields = codec.encode_submission(submission, weight, self._config.max_queue)
        ways, first, last, ahead_s, rate, *counts = self._run("foresee", json.dumps(fields))
        queued, mine, mine_ms = counts
        return Forecast(
            tuple(ways),
            first if first >= 0 else None,
            last if last >= 0 else None,
            float(ahead_s),
            float(rate) if rate else None,
            queued,
            mine,
            mine_ms / 1000,
        )

    @translated
    def disown(self, job_id: str) -> tuple[Owned, ...]:
        how, *entries = self._run("disown", job_id)
        if how == "missing":
            raise JobNotFound
        if how == "open":
            raise JobNotFinished
        return tuple(
            Owned(render, StoredResult.model_validate(json.loads(result)), bool(found))
            for render, result, found in entries
        )

    @translated
    def delete(self, job_id: str) -> None:
        if self._run("delete", job_id) == "open":
            raise JobNotFinished


def _stretch(query: JobQuery, after: str | None, most: int) -> list[str | float]:
    """The arguments of jobs.lua."""
    bounds = ["" if bound is None else repr(bound) for bound in (query.since, query.until)]
    cursor = after or ""
    came = repr(came_at(cursor)) if cursor else ""
    return [query.owner or "", cursor, came, int(query.newest_first), *bounds, most]
