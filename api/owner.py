"""Who asks, as the routes see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.owners.keys import ROLES, Grant, Key, Scope
from shared.store.values import NO_LIMITS, OwnerLimits

if TYPE_CHECKING:
    from shared.jobs import Job


@dataclass(slots=True, frozen=True)
class Owner:
    """`grant` is what the key allows; without a key nothing is limited."""

    name: str
    admin: bool = False
    scopes: frozenset[Scope] = ROLES["user"]
    grant: Grant | None = None
    key_id: str | None = None
    limits: OwnerLimits = NO_LIMITS

    def may_see(self, job: Job) -> bool:
        return self.admin or job.owner == self.name


ANONYMOUS = Owner("anonymous", admin=True, scopes=ROLES["admin"])


def of_key(key: Key, farm: OwnerLimits) -> Owner:
    """`farm`: the limits of a key that has none of its own."""
    return Owner(
        key.owner,
        admin="admin" in key.may,
        scopes=key.may,
        grant=key,
        key_id=key.id,
        limits=key.limits(farm),
    )
