"""Requests and answers: sent again where that is safe and may help, refusals as exceptions."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import ValidationError

from renderfarm_client.errors import Refused, RenderFarmError, Unreachable
from renderfarm_client.records import Record

R = TypeVar("R", bound=Record)

WORTH_A_RETRY = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0
# ValueError: what no request can carry, such as NaN, half a character, a URL without a host.
FAULTS = (httpx2.HTTPError, httpx2.InvalidURL, ValueError)


class Wire:
    """The way to one farm. Every request through it is safe to send twice.

    Through connection errors and answers that say *later* (429, 502, 503, 504) a request is sent
    again for `patience_s`, after the farm's `Retry-After`, or else a growing pause. What would
    have to wait longer than that is not waited for.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float, patience_s: float) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.patience_s = patience_s
        self.local = is_loopback(url)
        self.http = httpx2.Client(
            base_url=self.url,
            auth=_bearer(key) if key else None,
            timeout=timeout_s,
            trust_env=not self.local,  # a proxy cannot reach this machine's loopback
        )

    def send(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """A good answer. Raises Refused or Unreachable."""
        again = self.patience()
        while True:
            try:
                return checked(self.http.request(method, path, **request))
            except (*FAULTS, RenderFarmError) as error:
                again(error)

    def patience(self) -> Callable[[Exception], None]:
        """What pauses after a fault, or raises it: where it cannot pass, or has for too long."""
        give_up_at, pauses = time.monotonic() + self.patience_s, _pauses()

        def again(error: Exception) -> None:
            fault = self.fault(error)
            pause_s = fault.retry_after_s or next(pauses)
            if not _may_pass(error, fault) or time.monotonic() + pause_s > give_up_at:
                raise fault from error
            time.sleep(pause_s)

        return again

    def fault(self, error: Exception) -> RenderFarmError:
        """Any exception of a request, as one of ours."""
        match error:
            case RenderFarmError():
                return error
            case httpx2.TransportError():
                return Unreachable(f"no answer from {self.url}: {error}")
            case httpx2.HTTPError():  # redirects without end, a body that cannot be decoded
                return Unreachable(f"no good answer from {self.url}: {error}")
        return Refused(f"this cannot be sent: {error}")


def _pauses() -> Iterator[float]:
    pause_s = FIRST_PAUSE_S
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _may_pass(error: Exception, fault: RenderFarmError) -> bool:
    return isinstance(error, httpx2.TransportError) or fault.status in WORTH_A_RETRY


def read(kind: type[R], answer: httpx2.Response) -> R:
    """The answer's body. Raises Unreachable where no farm would answer so."""
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise Unreachable(f"{answer.url} does not answer like a render farm") from error


def part(name: str) -> str:
    """One part of a path, whatever was typed."""
    return quote(name, safe="")


def retry_after_s(answer: httpx2.Response) -> float | None:
    text = answer.headers.get("retry-after", "")
    return float(text[:9]) if text.isascii() and text.isdigit() else None


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked(answer: httpx2.Response) -> httpx2.Response:
    """The answer if it is a good one. Raises Refused or Unreachable with the farm's own words."""
    if answer.is_success:
        return answer
    problem = _problem(answer)
    fault = problem.get("error")
    if not isinstance(fault, dict):  # another server's word, such as a proxy's
        fault = {}
    field, request_id = fault.get("param"), problem.get("request_id")
    detail = str(problem.get("detail") or answer.reason_phrase)
    named = f"{field}: {detail}" if field and not detail.startswith(f"{field}:") else detail
    request = f", request {request_id}" if request_id else ""
    kind = Refused if answer.status_code < 500 else Unreachable
    raise kind(
        f"{named} (HTTP {answer.status_code}{request})",
        status=answer.status_code,
        code=fault.get("code"),
        detail=detail,
        field=field,
        request_id=request_id,
        retry_after_s=retry_after_s(answer),
    )


def _problem(answer: httpx2.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _bearer(key: str) -> Callable[[httpx2.Request], httpx2.Request]:
    def sign(request: httpx2.Request) -> httpx2.Request:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    return sign
