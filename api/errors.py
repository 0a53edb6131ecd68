"""Every fault as one kind of answer: problem+json (RFC 9457) with OpenAI's `error` member.

The core names the fault; `problem_of` chooses status and code. Nothing of a traceback, a path or a
host's name reaches a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.codes import CODES, kind_of
from shared import errors
from shared.store.values import WINDOW_S, Rate

CHALLENGE = {"WWW-Authenticate": "Bearer"}  # every 401 says how to answer it
_PLAIN = "".join(chr(code) for code in range(32, 127) if chr(code) != "%")
MOST_FAULTS = 32  # an order of a million unknown fields gets a short answer


@dataclass(slots=True, frozen=True)
class Fault:
    """One bad field of an order. `name` is a JSON pointer without `#/`, such as `metadata/a`."""

    code: str
    name: str
    detail: str
    place: str = "body"

    def shown(self) -> dict[str, str]:
        where = {"pointer": f"#/{self.name}"} if self.place == "body" else {"parameter": self.name}
        return where | {"code": self.code, "detail": self.detail}


@dataclass(slots=True, eq=False)
class Problem(Exception):
    """A refusal: `code` is one of `api.codes.CODES`; `param` names the field at fault."""

    status: int
    code: str
    detail: str
    param: str | None = None
    faults: Sequence[Fault] = ()
    headers: dict[str, str] = field(default_factory=dict)


def refuse(faults: Sequence[Fault]) -> Problem:
    """One 400 that names every bad field; the first decides the code."""
    first = faults[0]
    param = first.name or None
    return Problem(400, first.code, told(first), param, faults[:MOST_FAULTS])


def told(fault: Fault) -> str:
    return f"{fault.name}: {fault.detail}" if fault.name else fault.detail


def problem_of(error: Exception) -> Problem:
    """The answer to any exception; what is not foreseen is an `internal_error`."""
    match error:
        case Problem():
            return error
        case errors.InvalidOrder():
            return refuse([Fault(error.code, error.field or "", str(error))])
        case RequestValidationError():
            return _misread(error)
        case HTTPException():
            return _http(error)
        case errors.TryLater():
            return _later(error)
    for kind, (status, code, headers) in _CORE.items():
        if isinstance(error, kind):
            return Problem(status, code, str(kind()), headers=dict(headers))
    return Problem(500, "internal_error", "something went wrong in the farm; it has been logged")


_CORE: dict[type[errors.FarmError], tuple[int, str, dict[str, str]]] = {
    errors.NotDurable: (503, "store_unavailable", {"Retry-After": "2"}),
    errors.StoreRefuses: (503, "store_unavailable", {"Retry-After": "10"}),
    errors.StoreUnavailable: (503, "store_unavailable", {"Retry-After": "2"}),
    errors.ResultsUnavailable: (503, "store_unavailable", {"Retry-After": "2"}),
    errors.IdempotencyConflict: (422, "idempotency_key_reused", {}),
    errors.JobNotFound: (404, "job_not_found", {}),
    errors.JobGone: (410, "job_gone", {}),
    errors.JobNotFinished: (409, "job_not_finished", {}),
    errors.JobFinished: (409, "job_already_finished", {}),
    errors.ResultGone: (410, "result_gone", {}),
    errors.SignatureWrong: (401, "invalid_api_key", CHALLENGE),
    errors.UrlExpired: (403, "url_expired", {}),
}


_LATER: dict[type[errors.TryLater], tuple[int, str]] = {
    errors.QueueFull: (503, "queue_full"),
    errors.RateExceeded: (429, "rate_limit_exceeded"),
    errors.QuotaExceeded: (429, "quota_exceeded"),
}
LONGEST_S = 60  # clients ignore a longer Retry-After, or give up


def _later(error: errors.TryLater) -> Problem:
    status, code = _LATER[type(error)]
    wait_s = LONGEST_S if error.retry_after_s is None else ceil(error.retry_after_s)
    headers = {"Retry-After": str(min(max(wait_s, 1), LONGEST_S)), **rate_headers(error.rate)}
    return Problem(status, code, str(error), headers=headers)


def rate_headers(rate: Rate | None) -> dict[str, str]:
    """`RateLimit` and its policy, as the IETF's draft has them; none where there is no limit."""
    if rate is None:
        return {}
    return {
        "RateLimit-Policy": f'"submit";q={rate.limit};w={WINDOW_S}',
        "RateLimit": f'"submit";r={rate.remaining};t={ceil(rate.reset_s)}',
    }


def _misread(error: RequestValidationError) -> Problem:
    """Bad parameters. A path that fits no pattern is no URL of ours."""
    found = error.errors()
    if any(e["loc"][0] == "path" for e in found):
        return _http(HTTPException(404))
    return refuse([Fault("invalid_value", str(e["loc"][-1]), e["msg"], "query") for e in found])


def _http(error: HTTPException) -> Problem:
    if error.status_code == 405:
        allowed = set((error.headers or {}).get("Allow", "GET").replace(" ", "").split(","))
        allowed |= {"HEAD"} if "GET" in allowed else set()
        allow = ", ".join(sorted(allowed))
        return Problem(
            405, "method_not_allowed", f"this URL answers {allow}", headers={"Allow": allow}
        )
    if error.status_code == 404:
        return Problem(404, "unknown_url", "there is nothing at this URL")
    return Problem(error.status_code, "invalid_value", str(error.detail))


def respond(request: Request, problem: Problem) -> JSONResponse:
    """The problem as a response, naming the request and, where one is known, the job."""
    request.state.code = problem.code
    body, headers = problem_body(request, problem), dict(problem.headers)
    if getattr(request.state, "tells_errors", False):  # a dialect whose clients read no body
        headers["X-Error-Message"] = quote(problem.detail[:500], safe=_PLAIN)
    return JSONResponse(body, problem.status, headers, "application/problem+json")


def problem_body(request: Request, problem: Problem) -> dict[str, Any]:
    state = request.state
    body = described(problem, request.url.path, state.request_id)
    if job_id := getattr(state, "job_id", None):
        body["job_id"] = job_id
    return body


def described(problem: Problem, instance: str | None, request_id: str) -> dict[str, Any]:
    """The body of every fault; `instance` is the path that was asked, where one was understood."""
    body: dict[str, Any] = {
        "type": f"/errors#{problem.code}",
        "title": kind_of(problem.code).title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "request_id": request_id,
        "error": {
            "message": problem.detail,
            "type": kind_of(problem.code).type,
            "param": problem.param,
            "code": problem.code,
        },
    }
    if problem.faults:
        body["errors"] = [fault.shown() for fault in problem.faults]
    return body


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """These codes by status for a route's OpenAPI entry; `default` stands for all the others."""
    described: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        for status in CODES[code].statuses:
            entry = described.setdefault(status, {"description": "", "content": _CONTENT})
            entry["description"] = " ".join([entry["description"], f"`{code}`"]).strip()
    return described | {"default": {"description": _ANYWHERE, "content": _CONTENT}}


_ANYWHERE = "Any other fault, such as `method_not_allowed` or `internal_error`"
_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def add_schema(document: dict[str, Any]) -> dict[str, Any]:
    """Put the body of every fault into an OpenAPI document."""
    document.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _SCHEMA
    return document


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT = {"type": "string"}
_SCHEMA = _object(
    type=_TEXT,
    title=_TEXT,
    status={"type": "integer"},
    detail=_TEXT,
    instance=_TEXT,
    request_id=_TEXT,
    error=_object(
        message=_TEXT,
        type=_TEXT,
        param={"type": ["string", "null"]},
        code={"type": "string", "enum": list(CODES)},
    ),
)
_SCHEMA["properties"] |= {
    "job_id": _TEXT,
    "errors": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": dict.fromkeys(("pointer", "parameter", "code", "detail"), _TEXT),
            "required": ["code", "detail"],
        },
    },
}
