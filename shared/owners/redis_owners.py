"""Keys and the audit log on Redis."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import resources
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import redis
from ulid import ULID

from shared.errors import KeyNotFound
from shared.keys import KEYS
from shared.owners.keys import Key
from shared.owners.port import Act, Snapshot
from shared.store.faults import fault_of

KEPT = 10_000  # acts in the audit log

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S")


def _translated(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    @wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except redis.RedisError as error:
            raise fault_of(error) from error

    return cast("Callable[Concatenate[S, P], T]", call)


class RedisKeyStore:
    """See shared/owners/port.py. Thread-safe."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        source = (resources.files("shared.owners") / "swap.lua").read_text("utf-8")
        self._swap = client.register_script(source)

    @_translated
    def read(self, seen: str | None = None) -> Snapshot | None:
        version = self._redis.get(KEYS["keys_version"]) or ""
        if version == seen:
            return None
        pipe = self._redis.pipeline(transaction=False)
        pipe.hvals(KEYS["keys"])  # after the version: what is newer is read once more, never missed
        pipe.hgetall(KEYS["used"])
        records, used = pipe.execute()
        found = (_key(record) for record in records)
        known = (k.model_copy(update={"last_used_at": _time(used.get(k.id))}) for k in found)
        return Snapshot(str(version), tuple(sorted(known, key=_by_age)))

    @_translated
    def add(self, key: Key) -> None:
        self._write(None, key)

    @_translated
    def revoke(self, key_id: str, now: float) -> Key:
        return self._change(key_id, lambda old: old.model_copy(update={"revoked_at": now}))[1]

    @_translated
    def rotate(self, key_id: str, fresh: Key, old_until: float) -> Key:
        def ending(old: Key) -> Key:
            end = min(old_until, old.expires_at or old_until)
            return old.model_copy(update={"expires_at": end})

        before, after = self._change(key_id, ending, fresh)
        if before.revoked_at is not None:
            raise KeyNotFound
        return after

    def _change(self, key_id: str, change: Callable[[Key], Key], *more: Key) -> tuple[Key, Key]:
        """What it was and is; a revoked key stays as it is."""
        while True:
            was, old = self._find(key_id)
            if old.revoked_at is not None:
                return old, old
            new = change(old)
            if self._write(was, new, *more):
                return old, new

    def _write(self, was: str | None, *keys: Key) -> bool:
        """False if the first one's record was not `was` any more."""
        written = [part for key in keys for part in (key.sha256, _record(key))]
        names = (KEYS["keys"], KEYS["keys_version"])
        return bool(self._swap(args=[*names, str(ULID()), was or "", *written]))

    def _find(self, key_id: str) -> tuple[str, Key]:
        for record in cast("list[str]", self._redis.hvals(KEYS["keys"])):
            key = _key(record)
            if key.id == key_id:
                return record, key
        raise KeyNotFound

    @_translated
    def used(self, key_id: str, at: float) -> None:
        self._redis.hset(KEYS["used"], key_id, str(at))


class RedisAuditLog:
    """See shared/owners/port.py. Thread-safe; times are Redis' own."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @_translated
    def record(self, act: Act) -> None:
        told = act.model_dump_json(exclude={"id", "at"}, exclude_none=True)
        self._redis.xadd(KEYS["audit"], {"act": told}, maxlen=KEPT, approximate=True)

    @_translated
    def acts(self, limit: int = 100, before: str | None = None) -> list[Act]:
        newest = f"({before}" if before else "+"
        found: Any = self._redis.xrevrange(KEYS["audit"], newest, "-", limit)
        return [_act(entry_id, fields["act"]) for entry_id, fields in found]


def _by_age(key: Key) -> tuple[float, str]:
    return key.created_at, key.id


def _record(key: Key) -> str:
    return key.model_dump_json(exclude={"last_used_at"}, exclude_none=True)


def _key(record: str) -> Key:
    return Key.model_validate_json(record)


def _act(entry_id: str, told: str) -> Act:
    at = int(entry_id.partition("-")[0]) / 1000
    return Act.model_validate_json(told).model_copy(update={"id": entry_id, "at": at})


def _time(text: str | None) -> float | None:
    return None if text is None else float(text)
