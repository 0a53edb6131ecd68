"""Where jobs, renders and leases live. `open_store` gives the one on Redis."""

from __future__ import annotations

from shared.settings import Settings
from shared.store.port import JobStore


def open_store(settings: Settings, *, patience_s: float = 2.0) -> JobStore:
    """A job store on Redis. Connects at the first call.

    `patience_s`: how long a call is tried again through an outage before StoreUnavailable.
    Raises SettingsError.
    """
    from shared.store.address import connect
    from shared.store.redis_store import RedisJobStore
    from shared.store.scripts import StoreConfig
    from shared.tickets import ticket_template

    client = connect(settings.redis_address, patience_s=patience_s)
    return RedisJobStore(client, StoreConfig.of(settings, ticket_template()))
