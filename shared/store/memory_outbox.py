"""Webhooks in the memory store: their part of `lua/lib/outbox.lua` and their scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import RLock

from shared.store.ledger import Ledger
from shared.store.outbox import (
    LANE_MOST,
    LOG_MOST,
    OVERLAP_S,
    OWNER_MOST,
    SECRETS_MOST,
    Attempt,
    Delivered,
    Delivery,
    OutboxStats,
    State,
    outcome,
)


@dataclass(slots=True)
class Parcel:
    """One delivery and what only the store knows of it."""

    job_id: str
    name: str
    owner: str
    lane: str
    at: float
    due_at: float
    state: State = "waiting"
    tries: int = 0
    body: str | None = None
    token: str | None = None
    lease_until: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def road(self) -> tuple[str, str]:
        return self.owner, self.lane


@dataclass(slots=True)
class Parcels:
    """Every delivery. Not thread-safe: the store locks."""

    ledger: Ledger
    parcels: dict[tuple[str, str], Parcel] = field(default_factory=dict)  # job, name
    turns: dict[object, float] = field(default_factory=dict)  # owner, or road -> its last turn
    secrets: dict[str, dict[str, float]] = field(default_factory=dict)  # owner -> secret -> until
    totals: Counter[str] = field(default_factory=Counter)

    def post(self, job_id: str, type: str, index: int | None = None) -> None:
        entry = self.ledger.jobs.get(job_id)
        if entry is None or entry.job.webhook is None or type not in entry.job.webhook.events:
            return
        job, webhook = entry.job, entry.job.webhook
        name, now = type if index is None else f"{type}:{index}", self.ledger.now()
        parcel = Parcel(job_id, name, job.owner, webhook.lane, now, now)
        self.parcels.setdefault((job_id, name), parcel)

    def next(self) -> Parcel | None:
        """The one that is due of the owner, then the lane, whose last turn is longest ago."""
        owners, roads = Counter[str](), Counter[tuple[str, str]]()
        for each in self._under_way():
            owners[each.owner] += 1
            roads[each.road] += 1
        free = (
            each
            for each in self._due()
            if owners[each.owner] < OWNER_MOST and roads[each.road] < LANE_MOST
        )
        return min(free, key=self._turn, default=None)

    def _turn(self, each: Parcel) -> tuple[float, float, float]:
        return self.turns.get(each.owner, 0.0), self.turns.get(each.road, 0.0), each.due_at

    def _under_way(self) -> Iterator[Parcel]:
        now = self.ledger.now()
        return (e for e in self.parcels.values() if e.token and e.lease_until > now)

    def _due(self) -> Iterator[Parcel]:
        now = self.ledger.now()
        for each in self.parcels.values():
            if each.state == "waiting" and max(each.due_at, each.lease_until) <= now:
                yield each

    def held(self, delivery: Delivery) -> Parcel | None:
        parcel = self.parcels.get((delivery.job_id, delivery.name))
        return parcel if parcel and parcel.token == delivery.token else None


class MemoryOutbox:
    """See shared/store/outbox.py."""

    _lock: RLock
    _ledger: Ledger
    _parcels: Parcels

    def claim_deliveries(self, token: str, most: int, lease_s: float) -> list[Delivery]:
        with self._lock:
            parcels = self._parcels.parcels
            taken = [each for each in parcels.values() if each.token == token]
            while len(taken) < most and (parcel := self._parcels.next()):
                if parcel.job_id not in self._ledger.jobs:
                    del parcels[parcel.job_id, parcel.name]
                    continue
                parcel.token, parcel.lease_until = token, self._ledger.now() + lease_s
                turn = max(self._parcels.turns.values(), default=0.0) + 1
                self._parcels.turns |= {parcel.owner: turn, parcel.road: turn}
                taken.append(parcel)
            return [_claimed(each, token) for each in taken]

    def freeze_delivery(self, delivery: Delivery, body: str) -> str | None:
        with self._lock:
            parcel = self._parcels.held(delivery)
            if parcel and parcel.body is None:
                parcel.body = body
            return parcel.body if parcel else None

    def settle_delivery(
        self, delivery: Delivery, attempt: Attempt, state: State, pause_s: float = 0.0
    ) -> bool:
        with self._lock:
            parcel = self._parcels.held(delivery)
            if parcel is None:
                return False
            now = self._ledger.now()
            parcel.state, parcel.due_at, parcel.tries = state, now + pause_s, parcel.tries + 1
            parcel.attempts.append(attempt.model_copy(update={"at": now}))
            del parcel.attempts[:-LOG_MOST]
            parcel.token, parcel.lease_until = None, 0.0
            if state != "waiting":
                parcel.body = None
            self._parcels.totals[outcome(attempt, state)] += 1
            return True

    def deliveries(self, job_id: str) -> list[Delivered]:
        with self._lock:
            known = job_id in self._ledger.jobs
            found = [e for e in self._parcels.parcels.values() if known and e.job_id == job_id]
            return [_delivered(each) for each in sorted(found, key=lambda e: (e.at, e.name))]

    def redeliver(self, job_id: str, name: str) -> bool:
        with self._lock:
            parcel = self._parcels.parcels.get((job_id, name))
            if parcel is None or job_id not in self._ledger.jobs:
                return False
            parcel.state, parcel.due_at, parcel.tries = "waiting", self._ledger.now(), 0
            parcel.body, parcel.token, parcel.lease_until = None, None, 0.0
            return True

    def webhook_secrets(self, owner: str, proposal: str, *, rotate: bool = False) -> list[str]:
        with self._lock:
            now, endless = self._ledger.now(), float("inf")
            mine = {s: t for s, t in self._parcels.secrets.get(owner, {}).items() if t > now}
            newest = max(mine, key=lambda secret: mine[secret], default=None)
            if newest is None or (rotate and proposal not in mine):
                mine |= {newest: now + OVERLAP_S} if newest else {}
                mine[proposal] = endless
            signing = sorted(mine, key=lambda secret: mine[secret], reverse=True)[:SECRETS_MOST]
            self._parcels.secrets[owner] = {secret: mine[secret] for secret in signing}
            return signing

    def outbox_stats(self) -> OutboxStats:
        with self._lock:
            waiting = [e.due_at for e in self._parcels.parcels.values() if e.state == "waiting"]
            late_s = self._ledger.now() - min(waiting, default=self._ledger.now())
            totals = dict(self._parcels.totals)
            return OutboxStats(waiting=len(waiting), late_s=max(0.0, late_s), totals=totals)


def _claimed(parcel: Parcel, token: str) -> Delivery:
    which = (parcel.job_id, parcel.name, parcel.owner, parcel.lane)
    return Delivery(*which, parcel.at, parcel.tries, token, parcel.body)


def _delivered(parcel: Parcel) -> Delivered:
    return Delivered(
        job_id=parcel.job_id,
        name=parcel.name,
        state=parcel.state,
        at=parcel.at,
        tries=parcel.tries,
        due_at=parcel.due_at if parcel.state == "waiting" else None,
        attempts=tuple(parcel.attempts),
    )
