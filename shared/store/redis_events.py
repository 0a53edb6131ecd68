"""The job store on Redis: what is told of a job."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from shared.events import Event, read_event, split_id
from shared.store.faults import translated
from shared.store.redis_scripts import RedisScripts
from shared.store.values import Pulse


class RedisEvents(RedisScripts):
    """Part of RedisJobStore; see shared/store/port.py."""

    @translated
    def events(self, job_id: str, after: str | None) -> list[Event] | None:
        known = (0, "") if after is None else split_id(after)
        lines = known and self._run("events", job_id, *known)
        if known is None or lines is None:
            return None
        return [read_event(number, line) for number, line in enumerate(lines, known[0] + 1)]

    @translated
    def pulse(self, job_ids: Sequence[str]) -> dict[str, Pulse]:
        seen = self._run("pulse", *job_ids) if job_ids else []
        return {
            job: Pulse(events, unfinished, rank if rank >= 0 else None)
            for job, (events, unfinished, rank) in zip(job_ids, seen, strict=True)
            if events >= 0
        }

    @translated
    def preview(self, render_id: str, token: str, number: int, picture: bytes) -> None:
        self._run("preview", render_id, token, number, base64.b64encode(picture).decode())
