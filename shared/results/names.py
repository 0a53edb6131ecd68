"""Object names and the record's form, the same in a folder and in a bucket.

Fingerprints and tokens become parts of paths, so each is checked here: a ValueError is a bug of the
caller, never a client's fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from pydantic import ValidationError

from shared.jobs import StoredResult
from shared.results.port import Kept

PIECE_BYTES = 256 * 1024

_FINGERPRINT = re.compile(r"[0-9a-f]{64}(?:-[0-9a-f]{32})?")  # with an owner: cache_scope=owner
_TOKEN = re.compile(r"[0-9A-Za-z]{1,40}")
_OBJECT = re.compile(
    rf"renders/(?P<fingerprint>{_FINGERPRINT.pattern})/(?P<token>{_TOKEN.pattern})\.(?P<ending>png|json)"
)


def folder(fingerprint: str) -> str:
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise ValueError(f"not a fingerprint: {fingerprint[:80]!r}")
    return f"renders/{fingerprint}/"


def picture(fingerprint: str, token: str) -> str:
    return f"{folder(fingerprint)}{_checked(token)}.png"


def record(fingerprint: str, token: str) -> str:
    return f"{folder(fingerprint)}{_checked(token)}.json"


def recorded_tokens(names: Iterable[str]) -> list[str]:
    """The tokens that have a record among these file names, oldest first."""
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(stem for stem in stems if _TOKEN.fullmatch(stem))


def gather(objects: Iterable[tuple[str, int, float]]) -> Iterator[Kept]:
    """What these objects (name, bytes, unix seconds) are, if each fingerprint's lie together."""
    ours = ((match, size, at) for name, size, at in objects if (match := _OBJECT.fullmatch(name)))
    for fingerprint, group in groupby(ours, key=lambda one: one[0]["fingerprint"]):
        found: dict[str, list[tuple[str, int, float]]] = {}
        for match, size, at in group:
            found.setdefault(match["token"], []).append((match["ending"], size, at))
        for token, parts in sorted(found.items()):
            endings, sizes, times = zip(*parts, strict=True)
            yield Kept(fingerprint, token, len(endings) == 2, sum(sizes), max(times))


def encode(result: StoredResult, details: dict[str, Any]) -> bytes:
    known = result.model_dump(mode="json") | {"details": details}
    return json.dumps(known, ensure_ascii=False, allow_nan=False, indent=1).encode()


def decode(data: bytes, fingerprint: str, token: str) -> StoredResult | None:
    """The result that this record describes; None if it is torn or describes another."""
    try:
        read = StoredResult.model_validate_json(data)
        result = StoredResult.model_validate(read.model_dump(exclude={"details"}))
    except ValidationError:
        return None
    return result if (result.fingerprint, result.token) == (fingerprint, token) else None


def _checked(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"not a token: {token[:80]!r}")
    return token
