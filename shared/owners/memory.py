"""Keys and the audit log in one process, for tests and for a farm without a store of keys."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import count, islice
from threading import RLock

from shared.errors import KeyNotFound
from shared.owners.keys import Key
from shared.owners.port import Act, Snapshot

KEPT = 10_000


class MemoryKeyStore:
    """See shared/owners/port.py. Thread-safe."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._keys: dict[str, Key] = {}  # by id
        self._version = 0

    def read(self, seen: str | None = None) -> Snapshot | None:
        with self._lock:
            if seen == str(self._version):
                return None
            keys = sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))
            return Snapshot(str(self._version), tuple(keys))

    def add(self, key: Key) -> None:
        with self._lock:
            self._put(key)

    def revoke(self, key_id: str, now: float) -> Key:
        with self._lock:
            old = self._get(key_id)
            if old.revoked_at is None:
                self._put(old.model_copy(update={"revoked_at": now}))
            return self._keys[key_id]

    def rotate(self, key_id: str, fresh: Key, old_until: float) -> Key:
        with self._lock:
            old = self._get(key_id)
            if old.revoked_at is not None:
                raise KeyNotFound
            end = min(old_until, old.expires_at or old_until)
            self._put(old.model_copy(update={"expires_at": end}))
            self._put(fresh)
            return self._keys[key_id]

    def used(self, key_id: str, at: float) -> None:
        with self._lock:
            if old := self._keys.get(key_id):
                self._keys[key_id] = old.model_copy(update={"last_used_at": at})

    def _put(self, key: Key) -> None:
        self._keys[key.id] = key
        self._version += 1

    def _get(self, key_id: str) -> Key:
        if key_id not in self._keys:
            raise KeyNotFound
        return self._keys[key_id]


class MemoryAuditLog:
    """See shared/owners/port.py. Thread-safe. `clock` gives unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._now = clock
        self._serial = count(1)
        self._acts: deque[Act] = deque(maxlen=KEPT)

    def record(self, act: Act) -> None:
        at = {"id": f"{next(self._serial):012d}", "at": self._now()}
        self._acts.appendleft(act.model_copy(update=at))

    def acts(self, limit: int = 100, before: str | None = None) -> list[Act]:
        older = (act for act in list(self._acts) if before is None or act.id < before)
        return list(islice(older, limit))
