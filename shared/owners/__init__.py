"""Owners: their keys, what each allows, and the log of what admins did."""

from __future__ import annotations

from dataclasses import dataclass

from shared.owners.port import AuditLog, KeyStore
from shared.settings import Settings


@dataclass(slots=True, frozen=True)
class Office:
    """Where the keys live, and where the acts of admins are written down."""

    keys: KeyStore
    audit: AuditLog


def open_office(settings: Settings, *, patience_s: float = 2.0) -> Office:
    """Keys and audit log on Redis. Connects at the first call. Raises SettingsError."""
    from shared.owners.redis_owners import RedisAuditLog, RedisKeyStore
    from shared.store.address import connect

    client = connect(settings.redis_address, patience_s=patience_s)
    return Office(RedisKeyStore(client), RedisAuditLog(client))


def office_in_memory() -> Office:
    """An office without keys, which forgets everything when the process ends."""
    from shared.owners.memory import MemoryAuditLog, MemoryKeyStore

    return Office(MemoryKeyStore(), MemoryAuditLog())
