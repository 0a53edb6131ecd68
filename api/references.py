"""How an order names a picture: sent along, one of the caller's own, or uploaded before."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from shared.intake import MOST_BYTES
from shared.ssrf import MOST_CHARACTERS

_REMOTE = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_JOB = re.compile(r"job_[0-9A-Za-z]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WHAT = (
    'must be base64, a data: URL, {"job": "job_...", "index": 0} or {"sha256": "..."}'
    " of a picture of yours"
)


@dataclass(slots=True, frozen=True)
class Sent:
    """The bytes of a file."""

    data: bytes


@dataclass(slots=True, frozen=True)
class Drawn:
    """A finished picture of a job of the caller's."""

    job: str
    index: int


@dataclass(slots=True, frozen=True)
class Stored:
    """An input that the caller sent before, by the name of its pixels."""

    sha256: str


@dataclass(slots=True, frozen=True)
class Linked:
    """A URL that the farm may fetch, where its operator allows the host."""

    url: str


Reference = Sent | Drawn | Stored | Linked


def read_reference(value: Any) -> Reference:
    """Raises PydanticCustomError `invalid_image`, which holds nothing of the value."""
    match value:
        case Sent() | Drawn() | Stored() | Linked():
            return value
        case str() if _REMOTE.match(value[:64]):
            return Linked(value.strip()[: MOST_CHARACTERS + 1])
        case str():
            return Sent(_decoded(value))
        case {"job": str(job), **rest} if _JOB.fullmatch(job) and rest.keys() <= {"index"}:
            index = rest.get("index", 0)
            if type(index) is int and index >= 0:
                return Drawn(job, index)
        case {"sha256": str(sha256)} if len(value) == 1 and _SHA256.fullmatch(sha256):
            return Stored(sha256)
    raise _bad(_WHAT)


def _decoded(text: str) -> bytes:
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise _bad("a data: URL must be of the form data:image/png;base64,...")
    if len(text) > MOST_BYTES * 3 // 2:  # a third more by base64, the rest for line breaks
        raise _bad(f"the file has more than {MOST_BYTES // 2**20} MiB")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _bad(_WHAT) from None


def _bad(why: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_image", "{why}", {"why": why})


_SCHEMA = {
    "oneOf": [
        {"type": "string", "description": "Base64, or a `data:` URL, of a PNG, JPEG or WebP file"},
        {
            "type": "object",
            "description": "A finished picture of a job of yours",
            "properties": {
                "job": {"type": "string", "pattern": f"^{_JOB.pattern}$"},
                "index": {"type": "integer", "minimum": 0, "default": 0},
            },
            "required": ["job"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "description": "What `POST /inputs`, or the `input` of a job of yours, said",
            "properties": {"sha256": {"type": "string", "pattern": f"^{_SHA256.pattern}$"}},
            "required": ["sha256"],
            "additionalProperties": False,
        },
    ]
}
ImageField = Annotated[Any, PlainValidator(read_reference), WithJsonSchema(_SCHEMA)]
