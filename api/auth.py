"""Who asks: keys to owners. Keys are held as SHA-256 only and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api.errors import CHALLENGE, Problem
from shared.errors import SettingsError
from shared.jobs import Job
from shared.settings import Settings

# `owner:key` or `owner:key:admin`
_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):([!-9;-~]{1,512})(:admin)?")


@dataclass(slots=True, frozen=True)
class Owner:
    name: str
    admin: bool = False

    def may_see(self, job: Job) -> bool:
        return self.admin or job.owner == self.name


ANONYMOUS = Owner("anonymous", admin=True)


class Keys:
    """The owners of one farm; without any, everybody is `anonymous` and admin."""

    def __init__(self, owners: Mapping[bytes, Owner], *, open_to_all: bool = False) -> None:
        self._owners = owners
        self._open_to_all = open_to_all

    def owner(self, key: str | None, address: str) -> Owner:
        """`address` is the one of ours that was asked. Raises Problem 401."""
        if not self._owners:
            return self._anonymous(address)
        if not key:
            raise Problem(401, "missing_api_key", "send a key", headers=CHALLENGE)
        digest = hashlib.sha256(key.encode()).digest()
        matching = [o for known, o in self._owners.items() if hmac.compare_digest(known, digest)]
        if not matching:
            raise Problem(401, "invalid_api_key", "this key is not known", headers=CHALLENGE)
        return matching[0]

    def _anonymous(self, address: str) -> Owner:
        # A server may be bound past our settings: `uvicorn api.main:app --host 0.0.0.0`.
        if self._open_to_all or not _is_outward(address):
            return ANONYMOUS
        detail = "this farm has no keys and answers on loopback only; its operator can add some"
        raise Problem(401, "missing_api_key", detail, headers=CHALLENGE)


def read_keys(settings: Settings) -> Keys:
    """Raises SettingsError, which never shows a key."""
    owners: dict[bytes, Owner] = {}
    for number, entry in enumerate(settings.api_keys.get_secret_value().split(), 1):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise SettingsError(f"FARM_API_KEYS: entry {number} is not owner:key[:admin]")
        name, key, admin = match.groups()
        digest = hashlib.sha256(key.encode()).digest()
        if digest in owners:
            raise SettingsError(f"FARM_API_KEYS: entry {number} repeats an earlier key")
        owners[digest] = Owner(name, admin=bool(admin))
    return Keys(owners, open_to_all=settings.allow_open)


def refuse_open_door(settings: Settings) -> None:
    """Raises SettingsError where a farm without keys would be open to others."""
    if settings.api_keys.get_secret_value().split() or settings.allow_open:
        return
    if not is_loopback(settings.host):
        raise SettingsError(
            f"FARM_HOST={settings.host} is reachable by others and FARM_API_KEYS is empty: "
            "set FARM_API_KEYS=owner:key, or FARM_HOST=127.0.0.1, or FARM_ALLOW_OPEN=true"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_outward(address: str) -> bool:
    """Whether a socket's own address can be reached by others; a Unix socket's cannot."""
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


_bearer = HTTPBearer(auto_error=False)
_api_key = APIKeyHeader(name="api-key", scheme_name="api-key", auto_error=False)
_x_api_key = APIKeyHeader(name="X-API-Key", scheme_name="X-API-Key", auto_error=False)


# Async, since they wait for nothing: a thread for them would cost more than they do.
async def caller_key(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    api_key: Annotated[str | None, Depends(_api_key)],
    x_api_key: Annotated[str | None, Depends(_x_api_key)],
) -> str | None:
    return (bearer.credentials if bearer else None) or api_key or x_api_key


CallerKey = Annotated[str | None, Depends(caller_key)]


async def caller(request: Request, key: CallerKey) -> Owner:
    """The owner who asks. Raises Problem 401."""
    return identify(request, key)


def identify(request: Request, key: str | None) -> Owner:
    """Raises Problem 401."""
    keys: Keys = request.app.state.farm.keys
    address, _ = request.scope.get("server") or ("", None)
    owner = keys.owner(key, address)
    request.state.owner = owner.name
    return owner


Caller = Annotated[Owner, Depends(caller)]


async def admin(owner: Caller) -> Owner:
    """The owner who asks, if an admin. Raises Problem 401 or 403."""
    if not owner.admin:
        raise Problem(403, "admin_only", "this needs an admin's key")
    return owner


Admin = Annotated[Owner, Depends(admin)]
