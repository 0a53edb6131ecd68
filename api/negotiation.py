"""Content negotiation and the conditional headers of HTTP (RFC 9110), as far as pictures need."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Unsatisfiable(Exception):
    """The range lies outside the picture."""


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The offer that `Accept` likes best, the earlier of equals; None if it wants none of them."""
    wishes = [_wish(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    liked = [(_quality(offer, wishes), -rank, offer) for rank, offer in enumerate(offers)]
    quality, _, best = max(liked)
    return best if quality > 0 else None


def _wish(part: str) -> tuple[str, float]:
    kind, _, parameters = part.partition(";")
    match = re.search(r"q=([01](?:\.[0-9]{0,3})?)", parameters)
    return kind.strip().lower(), float(match[1]) if match else 1.0


def _quality(offer: str, wishes: Sequence[tuple[str, float]]) -> float:
    """That of the most specific wish that fits."""
    for form in (offer, offer.partition("/")[0] + "/*", "*/*"):
        fitting = [quality for kind, quality in wishes if kind == form]
        if fitting:
            return max(fitting)
    return 0.0


def unchanged(headers: Headers, etag: str) -> bool:
    """Whether the client holds this version already: `If-None-Match`, compared weakly."""
    known = [tag.strip().removeprefix("W/") for tag in headers.get("if-none-match", "").split(",")]
    return "*" in known or etag.removeprefix("W/") in known


def byte_range(headers: Headers, size: int, etag: str) -> tuple[int, int] | None:
    """[start, end) of a single range; None: send everything. Raises Unsatisfiable.

    Several ranges, other units and an outdated `If-Range` are ignored, as a server may.
    """
    match = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if not first:
        return _suffix(last, size)
    start, end = int(first), min(int(last) + 1 if last else size, size)
    if last and int(last) < int(first):
        return None  # not a range at all
    if start >= size:
        raise Unsatisfiable
    return start, end


def _suffix(length: str, size: int) -> tuple[int, int] | None:
    if not length:
        return None
    if int(length) == 0:
        raise Unsatisfiable
    return max(0, size - int(length)), size
