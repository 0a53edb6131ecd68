"""Bytes to a `NewJob`, or one refusal that names every bad field."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from api.codes import CODES
from api.errors import MOST_FAULTS, Fault, Problem, refuse
from api.schemas import ALIASES, SIZE, Limits, NewJob
from shared.fingerprint import encode

M = TypeVar("M", bound=BaseModel)

_CODES = {"missing": "missing_field", "extra_forbidden": "unknown_field"}
_WORDS = {  # where pydantic's speak of its own parts
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "model_type": "must be an object",
    "dict_type": "must be an object",
}
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
_SIDES = ("width", "height")
# Three bytes of JSON may become eighty of memory. Texts may have commas, pictures in base64 have none.
MOST_COMMAS = 2**18


async def json_body(request: Request) -> bytes:
    """The raw body; it is parsed in the route's thread. Raises Problem 413 or 415."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0]
    if kind.strip().lower() != "application/json":
        raise Problem(415, "unsupported_media_type", "send the order as application/json")
    return await request.body()


def parse(body: bytes | dict[str, Any], limits: Limits) -> NewJob:
    """From JSON, or from fields already read. Raises Problem 400 with all faults."""
    return read(json_object(body) if isinstance(body, bytes) else body, limits)


def read(
    given: dict[str, Any],
    limits: Limits,
    *,
    known_as: Mapping[str, str] | None = None,
    found: Sequence[Fault] = (),
) -> NewJob:
    """`known_as`: what a dialect calls a field; `found`: what it found wrong itself.

    Raises Problem 400 with all faults.
    """
    fields, spelled, faults = fold(given)
    known = dict(known_as or {})
    spelled = {name: known.get(alias, alias) for name, alias in spelled.items()} | known
    faults = [*found, *faults]
    unknown = [name for name in fields if name not in NewJob.model_fields]
    for name in unknown[MOST_FAULTS:]:  # each would cost a kilobyte only to be left unsaid
        del fields[name]
    try:
        order = NewJob.model_validate(fields, context=limits)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        faults += [_fault(one, spelled) for one in wrong]
    if faults:
        raise refuse(list({fault.name: fault for fault in reversed(faults)}.values())[::-1])
    return order


def fold(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], list[Fault]]:
    """Absent for null, fields for aliases; how each was spelled; where field and alias differ."""
    fields = {name: value for name, value in given.items() if value is not None}
    spelled: dict[str, str] = {}
    faults: list[Fault] = []

    def put(name: str, alias: str, value: Any) -> None:
        if fields.setdefault(name, value) != value:
            faults.append(Fault("conflicting_fields", alias, f"says something else than {name}"))
        elif name not in given:
            spelled[name] = alias

    for alias in ALIASES.keys() & fields.keys():
        put(ALIASES[alias], alias, fields.pop(alias))
    if (size := fields.pop("size", None)) is not None:
        match = SIZE.fullmatch(size) if isinstance(size, str) else None
        if match is None:
            faults.append(Fault("invalid_size", "size", "must be WIDTHxHEIGHT, such as 1024x768"))
        else:
            for name, side in zip(_SIDES, match.groups(), strict=True):
                put(name, "size", int(side))
    return fields, spelled, faults


def digest(order: NewJob) -> str:
    """SHA-256 of what the client said: aliases folded, before defaults and seed."""
    said = order.model_dump(mode="json", exclude_unset=True)
    return hashlib.sha256(encode(said)).hexdigest()


def read_small(kind: type[M], body: bytes) -> M:
    """A body that may be left out. Raises Problem 400 with all faults."""
    given = json_object(body) if body.strip() else {}
    try:
        return kind.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        raise refuse([_fault(one, {}) for one in wrong]) from None


def digest_verify(job_id: str, index: int) -> str:
    """What `digest` is to an order."""
    return hashlib.sha256(encode({"verifies": job_id, "index": index})).hexdigest()


def digest_retry(job_id: str) -> str:
    """What `digest` is to an order: two retries of one job under one key are the same."""
    return hashlib.sha256(encode({"retries": job_id})).hexdigest()


def key_of(given: str) -> str:
    """An `Idempotency-Key`. Raises Problem 400."""
    if not _IDEMPOTENCY_KEY.fullmatch(given):
        detail = "Idempotency-Key must be 1 to 255 visible ASCII characters"
        raise Problem(400, "invalid_idempotency_key", detail, "Idempotency-Key")
    return given


def json_object(body: bytes) -> dict[str, Any]:
    """Raises Problem 400."""
    if body.count(b",") > MOST_COMMAS:
        raise Problem(400, "invalid_json", "the body holds far more values than any order")
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:  # also for deep nesting and endless numbers
        raise Problem(400, "invalid_json", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Problem(400, "invalid_json", "the body must be a JSON object")
    return value


def _fault(found: ErrorDetails, spelled: dict[str, str]) -> Fault:
    field, *rest = map(str, found["loc"])
    if rest[1:] == ["[key]"]:  # the key is at fault, not its value
        rest.pop()
    code = found["type"] if found["type"] in CODES else _CODES.get(found["type"], "invalid_value")
    if field in _SIDES and code == "invalid_value":
        code = "invalid_size"
    path = [*(spelled[field].split("/") if field in spelled else [field]), *rest]
    name = "/".join(part[:100].replace("~", "~0").replace("/", "~1") for part in path)
    return Fault(code, name, _WORDS.get(found["type"], found["msg"]))
