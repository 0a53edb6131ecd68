"""Who asks: from the headers of a request to an owner, and what his key allows."""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from api.errors import Problem
from api.keyring import KeyRing
from api.owner import ANONYMOUS as ANONYMOUS
from api.owner import Owner as Owner
from shared.errors import SettingsError, StoreUnavailable
from shared.owners.keys import Scope
from shared.owners.port import KeyStore
from shared.settings import Settings


def refuse_open_door(settings: Settings, keys: KeyStore | None = None) -> None:
    """Raises SettingsError where a farm without keys would be open to others.

    A store that does not answer is believed to have keys: nobody comes in before it does.
    """
    if (
        settings.api_keys.get_secret_value().split()
        or settings.api_keys_file
        or settings.allow_open
    ):
        return
    if not is_loopback(settings.host) and not (keys and _has_keys(keys)):
        raise SettingsError(
            f"FARM_HOST={settings.host} is reachable by others and the farm has no keys: add one "
            "with `renderfarm keys add OWNER`, or set FARM_API_KEYS=owner:key, or "
            "FARM_HOST=127.0.0.1, or FARM_ALLOW_OPEN=true"
        )


def _has_keys(keys: KeyStore) -> bool:
    try:
        found = keys.read()
    except StoreUnavailable:
        return True
    return bool(found and found.keys)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_outward(request: Request) -> bool:
    """Whether others than this machine may be asking; through a Unix socket they cannot.

    On loopback it may be a page of a stranger, open in a browser here: such a page comes with its
    own `Origin`, or under a name of its own that was made to lead to loopback.
    """
    address, _ = request.scope.get("server") or ("", None)
    try:
        if not ipaddress.ip_address(address).is_loopback:
            return True
    except ValueError:
        return False
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    return not _leads_here(host) or (origin is not None and origin.partition("://")[2] != host)


def _leads_here(host: str) -> bool:
    """Whether a `Host`, with or without its port, can only be this machine; none is no browser's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return not host or is_loopback(name) or name.endswith(".localhost")


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
    """The owner who asks, with the scope that the method needs: `read` to look, else `submit`.

    Raises Problem 401 or 403, StoreUnavailable.
    """
    return _with_scope(request, await _looked_up(request, key))


def identify(request: Request, key: str | None) -> Owner:
    """`caller` for a route with other ways in. May ask the store, so call it in a thread."""
    return _with_scope(request, _whose(request, key))


Caller = Annotated[Owner, Depends(caller)]


async def admin(request: Request, key: CallerKey) -> Owner:
    """The owner who asks, if an admin. Raises Problem 401 or 403, StoreUnavailable."""
    owner = await _looked_up(request, key)
    if not owner.admin:
        raise Problem(403, "admin_only", "this needs an admin's key")
    return owner


Admin = Annotated[Owner, Depends(admin)]


async def _looked_up(request: Request, key: str | None) -> Owner:
    """In the event loop as a rule; the store, if it must be asked, is asked in a thread."""
    ring: KeyRing = request.app.state.farm.keys
    if ring.is_at_hand(key):
        return _whose(request, key)
    return await run_in_threadpool(_whose, request, key)


def _whose(request: Request, key: str | None) -> Owner:
    ring: KeyRing = request.app.state.farm.keys
    owner = ring.owner(key, outward=_is_outward(request))
    request.state.owner = owner.name
    return owner


def _with_scope(request: Request, owner: Owner) -> Owner:
    scope: Scope = "read" if request.method in ("GET", "HEAD") else "submit"
    if scope not in owner.scopes:
        raise Problem(403, "scope_missing", f"this key has no scope `{scope}`")
    return owner
