"""The Lua scripts of the Redis store, one per transition, and what is put before each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from shared.keys import KEYS
from shared.settings import Settings
from shared.store.durable import Wanted
from shared.store.outbox import LANE_MOST, LOG_MOST, OWNER_MOST
from shared.store.values import ATTACH_S, PACE_S, UNWELL_S, WINDOW_S

TICKETS_MAX = 16  # each claim tops up for the next, so a few invite any number of workers
IDEMPOTENCY_S = 86_400
DEATH_S = 604_800  # how long the last death of a slot is remembered


@dataclass(slots=True, frozen=True)
class StoreConfig:
    """What the scripts must know. Plain values: the keeper process gets them over its pipe."""

    ticket: str
    retention_s: int = 604_800
    max_losses: int = 3
    max_retries: int = 3
    retry_pause_s: float = 1.0  # before the first retry; each further one waits 4 times as long
    max_queue: int = 100_000
    durability: Wanted = "off"
    durable_replicas: int = 0

    @staticmethod
    def of(settings: Settings, ticket: str) -> StoreConfig:
        return StoreConfig(
            ticket,
            retention_s=settings.job_retention_s,
            max_losses=settings.max_losses,
            max_retries=settings.max_retries,
            max_queue=settings.max_queue,
            durability=settings.durability,
            durable_replicas=settings.durable_replicas,
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


SCRIPTS = (
    "submit", "get", "cancel", "forget", "claim", "renew", "storing", "close", "release", "revoke",
    "adopt", "reap", "expire", "reconcile", "audit", "heartbeat", "died", "unwell", "workers",
    "poison", "condemn", "attend", "depart", "abandon", "unattended",
    "jobs", "disown", "delete", "foresee", "queue", "spent", "events", "pulse", "preview",
    "claim_deliveries", "freeze_delivery", "settle_delivery", "redeliver", "webhook_secrets",
)  # fmt: skip
# What is put before every script, in this order: `lua/lib/`.
LIB = (
    "clock", "outbox", "queue", "states", "events", "renders", "index", "attendance", "snapshot",
)  # fmt: skip


def source(name: str, config: StoreConfig) -> str:
    """One script as Redis gets it: constants, library, itself."""
    return _constants(config) + "".join(_lua(f"lib/{part}") for part in LIB) + _lua(name)


def _lua(name: str) -> str:
    return (resources.files("shared.store") / "lua" / f"{name}.lua").read_text("utf-8")


def _constants(config: StoreConfig) -> str:
    names = ", ".join(f"{name} = '{key}'" for name, key in KEYS.items())
    return (
        f"local K = {{ {names} }}; local TICKET = [==[{config.ticket}]==]; "
        f"local TICKETS_MAX, MAX_LOSSES = {TICKETS_MAX}, {config.max_losses}; "
        f"local MAX_RETRIES, RETRY_PAUSE_S = {config.max_retries}, {config.retry_pause_s}; "
        f"local LANE_MOST, OWNER_MOST, LOG_MOST = {LANE_MOST}, {OWNER_MOST}, {LOG_MOST}; "
        f"local RETENTION_S, IDEMPOTENCY_S = {config.retention_s}, {IDEMPOTENCY_S}; "
        f"local DEATH_S, UNWELL_S, ATTACH_S = {DEATH_S}, {UNWELL_S}, {ATTACH_S}; "
        f"local WINDOW_S, PACE_S = {WINDOW_S}, {PACE_S}\n"
    )
