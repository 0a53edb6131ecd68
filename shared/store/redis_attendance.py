"""The store's side of clients that wait on an open connection, and of notes, on Redis."""

from __future__ import annotations

from typing import cast

from shared.errors import JobNotFound
from shared.jobs import Job
from shared.keys import KEYS
from shared.store import codec
from shared.store.faults import translated
from shared.store.redis_scripts import RedisScripts
from shared.store.values import Moved

BATCH = 200


class RedisAttendance(RedisScripts):
    """Part of RedisJobStore; see shared/store/port.py."""

    @translated
    def attend(self, job_id: str, client: str, gone_s: float) -> None:
        self._run("attend", job_id, client, gone_s)

    @translated
    def depart(self, job_id: str, client: str, gone_s: float) -> None:
        self._run("depart", job_id, client, gone_s)

    @translated
    def abandon(self, job_id: str, client: str) -> Job:
        seen = self._run("abandon", job_id, client)
        if seen is None:
            raise JobNotFound
        return codec.decode_job(seen)

    @translated
    def unattended(self) -> Moved:
        return Moved(abandoned=tuple(self._run("unattended", BATCH)))

    @translated
    def note(self, owner: str, name: str, value: str) -> None:
        self._redis.hset(KEYS["notes"] + owner, name, value)

    @translated
    def notes(self, owner: str) -> dict[str, str]:
        return dict(cast("dict[str, str]", self._redis.hgetall(KEYS["notes"] + owner)))
