"""Absolute URLs, as the client that asks would write them."""

from __future__ import annotations

from fastapi import Request

from shared.links import Links
from shared.settings import Settings
from shared.signing import Signer


def links(request: Request, settings: Settings, signer: Signer) -> Links:
    spelling = "/v1" if request.url.path.startswith("/v1/") else ""
    return Links(origin(request, settings) + spelling, signer)


def origin(request: Request, settings: Settings) -> str:
    """`public_url`, else what a trusted proxy was asked, else `Host`."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scheme, host = request.url.scheme, request.headers.get("host") or request.url.netloc
    if settings.trust_proxy:
        scheme = _first(request, "x-forwarded-proto") or scheme
        host = _first(request, "x-forwarded-host") or host
    return f"{scheme}://{host}"


def _first(request: Request, header: str) -> str:
    """The value that the outermost proxy set."""
    return request.headers.get(header, "").partition(",")[0].strip()
