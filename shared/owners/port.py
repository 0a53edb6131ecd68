"""The ports behind keys: where they live, and what admins did. All raise StoreUnavailable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.jobs import Record
from shared.owners.keys import Key


@dataclass(slots=True, frozen=True)
class Snapshot:
    """All keys that were ever added and not yet forgotten, the oldest first."""

    version: str
    keys: tuple[Key, ...]


class KeyStore(Protocol):
    def read(self, seen: str | None = None) -> Snapshot | None:
        """All keys; None if nothing but `last_used_at` has changed since version `seen`. O(1) then."""

    def add(self, key: Key) -> None: ...

    def revoke(self, key_id: str, now: float) -> Key:
        """The key is no longer valid. Repeated: nothing changes. Raises KeyNotFound."""

    def rotate(self, key_id: str, fresh: Key, old_until: float) -> Key:
        """Add `fresh` and let the old key end at `old_until`, unix seconds, at the latest.

        Answers the old one. Raises KeyNotFound, also for a revoked key.
        """

    def used(self, key_id: str, at: float) -> None:
        """Remember when it was used last; callers do so only now and then."""


class Act(Record):
    """What an admin did: `actor` (an owner, or the operator of a command) did `what` to `target`."""

    id: str = ""  # grows with time
    at: float = 0.0  # unix seconds
    actor: str
    key: str | None = None  # the id of the key used
    what: str
    target: str
    owner: str | None = None  # whose it was
    request_id: str | None = None


class AuditLog(Protocol):
    def record(self, act: Act) -> None:
        """Keep it, among the last `KEPT`; `id` and `at` are the log's own."""

    def acts(self, limit: int = 100, before: str | None = None) -> list[Act]:
        """The newest first; `before` is the id of the last one seen."""
