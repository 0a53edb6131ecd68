"""Claims whose worker died before it knew of them, on Redis."""

from __future__ import annotations

from typing import Any

from shared.store.faults import translated
from shared.store.values import Cause


class RedisClaims:
    """Part of RedisJobStore; see shared/store/port.py."""

    def _run(self, script: str, *args: str | float) -> Any:
        raise NotImplementedError

    @translated
    def revoke(self, token: str, *, cause: Cause = "worker_lost", detail: str = "") -> str | None:
        return self._run("revoke", token, cause, detail) or None
