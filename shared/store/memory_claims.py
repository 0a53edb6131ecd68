"""Claims whose worker died before it knew of them, in the memory store."""

from __future__ import annotations

from threading import RLock

from shared.store.ledger import Ledger
from shared.store.values import Cause


class MemoryClaims:
    """Part of MemoryJobStore; see shared/store/port.py. `_tokens` is {token: render, "" for none}."""

    _lock: RLock
    _ledger: Ledger
    _tokens: dict[str, str]

    def revoke(self, token: str, *, cause: Cause = "worker_lost", detail: str = "") -> str | None:
        with self._lock:
            entry = self._ledger.renders.get(self._tokens.setdefault(token, ""))
            if entry is None or not self._ledger.holds(entry, token):
                return None
            self._ledger.give_back(entry, True, cause, detail)
            return entry.render.id
