"""Webhooks in the job store on Redis."""

from __future__ import annotations

import json
from typing import Any, cast

from shared.keys import KEYS
from shared.store.faults import translated
from shared.store.outbox import (
    OVERLAP_S,
    SECRETS_MOST,
    Attempt,
    Delivered,
    Delivery,
    OutboxStats,
    State,
    outcome,
)
from shared.store.redis_scripts import RedisScripts


class RedisOutbox(RedisScripts):
    """Part of RedisJobStore; see shared/store/outbox.py."""

    @translated
    def claim_deliveries(self, token: str, most: int, lease_s: float) -> list[Delivery]:
        return [_claimed(one, token) for one in self._run("claim_deliveries", token, most, lease_s)]

    @translated
    def freeze_delivery(self, delivery: Delivery, body: str) -> str | None:
        which = (delivery.job_id, delivery.name, delivery.token)
        return cast("str | None", self._run("freeze_delivery", *which, body))

    @translated
    def settle_delivery(
        self, delivery: Delivery, attempt: Attempt, state: State, pause_s: float = 0.0
    ) -> bool:
        which = (delivery.job_id, delivery.name, delivery.owner, delivery.lane, delivery.token)
        note = attempt.model_dump_json(exclude={"at"})
        how = outcome(attempt, state)
        return bool(self._run("settle_delivery", *which, note, how, state, pause_s))

    @translated
    def deliveries(self, job_id: str) -> list[Delivered]:
        fields = cast("dict[str, str]", self._redis.hgetall(KEYS["deliveries"] + job_id))
        names = [name for name in fields if not name.endswith((":log", ":body", ":token"))]
        found = [_delivered(job_id, name, fields) for name in names]
        return sorted(found, key=lambda each: (each.at, each.name))

    @translated
    def redeliver(self, job_id: str, name: str) -> bool:
        return bool(self._run("redeliver", job_id, name))

    @translated
    def webhook_secrets(self, owner: str, proposal: str, *, rotate: bool = False) -> list[str]:
        terms = (int(rotate), OVERLAP_S, SECRETS_MOST)
        return cast("list[str]", self._run("webhook_secrets", owner, proposal, *terms))

    @translated
    def outbox_stats(self) -> OutboxStats:
        pipe = self._redis.pipeline(transaction=True)
        pipe.time()
        pipe.zcard(KEYS["undelivered"])
        pipe.zrange(KEYS["undelivered"], 0, 0, withscores=True)
        pipe.hgetall(KEYS["delivered"])
        pipe.get(KEYS["ahead"])
        (seconds, micros), waiting, oldest, totals, ahead = pipe.execute()
        now = seconds + micros / 1e6 + float(ahead or 0)  # the farm's clock
        late_s = max((now - due for _, due in oldest), default=0.0)
        return OutboxStats(waiting=waiting, late_s=max(0.0, late_s), totals=totals)


def _claimed(entry: list[Any], token: str) -> Delivery:
    job, name, owner, lane, line, body = entry
    at, _, tries, _ = line.split(" ")
    return Delivery(job, name, owner, lane, float(at), int(tries), token, body)


def _delivered(job_id: str, name: str, fields: dict[str, str]) -> Delivered:
    at, state, tries, due = fields[name].split(" ")
    log = [line.split(" ", 1) for line in fields.get(f"{name}:log", "").splitlines()]
    return Delivered.model_validate(
        {
            "job_id": job_id,
            "name": name,
            "state": state,
            "at": at,
            "tries": tries,
            "due_at": due if state == "waiting" else None,
            "attempts": [{**json.loads(note), "at": noted_at} for noted_at, note in log],
        }
    )
