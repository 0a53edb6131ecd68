"""A key and what it allows. Its text is shown once and never stored: only its SHA-256 is."""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal, Self

from pydantic import Field, model_validator
from ulid import ULID

from shared.jobs import Record
from shared.store.values import OwnerLimits

Scope = Literal["submit", "read", "admin"]
Priority = Literal["high", "normal", "low"]
ROLES: dict[str, frozenset[Scope]] = {
    "user": frozenset({"submit", "read"}),
    "admin": frozenset({"submit", "read", "admin"}),
}
MARK = "rf_"  # so that scanners for leaked secrets know one when they see it
RANDOM_BYTES = 32


class Grant(Record):
    """What a key allows its owner. A limit that is None is the farm's; 0 means no limit."""

    owner: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    role: Literal["user", "admin"] = "user"
    scopes: frozenset[Scope] | None = None  # None: all of the role
    weight: float = Field(1.0, gt=0, le=1000)
    max_priority: Priority = "high"
    submits_per_min: int | None = Field(None, ge=0, le=1_000_000)
    max_queued: int | None = Field(None, ge=0)  # renders
    max_queued_gpu_s: float | None = Field(None, ge=0)
    max_side_px: int | None = Field(None, gt=0)  # None: the model's
    max_pixels: int | None = Field(None, gt=0)
    max_steps: int | None = Field(None, gt=0)
    note: str = Field("", max_length=200)

    @model_validator(mode="after")
    def _scopes_of_its_role(self) -> Self:
        if self.scopes is not None and not self.scopes <= ROLES[self.role]:
            raise ValueError(f"the role {self.role} has no scope admin")
        return self

    @property
    def may(self) -> frozenset[Scope]:
        return ROLES[self.role] if self.scopes is None else self.scopes

    def limits(self, farm: OwnerLimits) -> OwnerLimits:
        """The key's own where it has them, else the farm's."""

        def either(own: float | None, default: float) -> float:
            return default if own is None else own

        return OwnerLimits(
            submits_per_min=int(either(self.submits_per_min, farm.submits_per_min)),
            max_queued=int(either(self.max_queued, farm.max_queued)),
            max_queued_gpu_s=either(self.max_queued_gpu_s, farm.max_queued_gpu_s),
        )


class Key(Grant):
    """A grant under the hash of its key. Times are unix seconds."""

    id: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None  # to within some minutes

    def valid(self, now: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def digest(text: str) -> str:
    """What is stored of a key: 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def make(grant: Grant, now: float, expires_at: float | None = None) -> tuple[str, Key]:
    """A fresh key: the text, to be shown once, and the record. `now` in unix seconds."""
    text = MARK + secrets.token_urlsafe(RANDOM_BYTES)
    fields = grant.model_dump(include=set(Grant.model_fields))
    times = {"created_at": now, "expires_at": expires_at}
    return text, Key(id=f"key_{ULID()}", sha256=digest(text), **fields, **times)
