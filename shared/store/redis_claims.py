"""Claims whose worker died before it knew of them, on Redis."""

from __future__ import annotations

from shared.store.faults import translated
from shared.store.redis_scripts import RedisScripts
from shared.store.values import Cause


class RedisClaims(RedisScripts):
    """Part of RedisJobStore; see shared/store/port.py."""

    @translated
    def revoke(self, token: str, *, cause: Cause = "worker_lost", detail: str = "") -> str | None:
        return self._run("revoke", token, cause, detail) or None
