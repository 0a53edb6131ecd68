"""A small client of the farm's HTTP API: what the commands need that speak to a farm."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import ValidationError

from cli.answers import (
    FarmStatus,
    Job,
    Jobs,
    KnownWorker,
    KnownWorkers,
    Poison,
    PoisonList,
    Trained,
    View,
)
from shared.errors import FarmError, Unavailable

V = TypeVar("V", bound=View)

WORTH_A_RETRY = frozenset({429, 502, 503, 504})
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0
LOOPBACK_POLL_S, LONGEST_POLL_S = 0.2, 10.0


class Refused(FarmError):
    """The farm refuses: a 4xx answer. `field` is the wrong field of the order, if one is."""

    exit_code = 2

    def __init__(self, message: str, code: str, field: str | None, request_id: str | None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.request_id = request_id


class Unreachable(Unavailable):
    """The farm cannot be reached, or does not work."""

    exit_code = 3


class FarmClient:
    """One farm at `url`. Every method raises Refused or Unreachable.

    Requests that may be repeated are, through connection errors and 429/502/503/504, for
    `patience_s` seconds.
    """

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._local = is_loopback(url)
        self._http = httpx2.Client(
            base_url=self.url,
            auth=_bearer(key) if key else None,
            timeout=timeout_s,
            trust_env=not self._local,  # a proxy cannot reach this machine's loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def submit(self, order: dict[str, Any], idempotency_key: str, patience_s: float = 2.0) -> Job:
        """Order a job. The key makes one job of however many tries this takes."""
        headers = {"Idempotency-Key": idempotency_key}
        return self._job(self._send("POST", "/jobs", patience_s, json=order, headers=headers))

    def job(self, job_id: str, patience_s: float = 30.0) -> Job:
        return self._job(self._send("GET", f"/jobs/{job_id}", patience_s))

    def cancel(self, job_id: str, patience_s: float = 2.0) -> Job:
        return self._job(self._send("POST", f"/jobs/{job_id}/cancel", patience_s))

    def retry(self, job_id: str, idempotency_key: str, patience_s: float = 2.0) -> Job:
        """Order a job again; the new one. The key makes one of however many tries this takes."""
        headers = {"Idempotency-Key": idempotency_key}
        return self._job(
            self._send("POST", f"/jobs/{_part(job_id)}/retry", patience_s, headers=headers)
        )

    def poison(self) -> tuple[Poison, ...]:
        return _read(PoisonList, self._send("GET", "/poison", patience_s=2.0)).data

    def retry_poison(self, render_id: str) -> tuple[Job, ...]:
        answer = self._send("POST", f"/poison/{_part(render_id)}/retry", patience_s=2.0)
        return _read(Jobs, answer).data

    def drop_poison(self, render_id: str) -> None:
        self._send("DELETE", f"/poison/{_part(render_id)}", patience_s=0.0)

    def download(self, url: str, patience_s: float = 30.0) -> bytes:
        """The picture under a job's signed URL; the key stays at home."""
        return self._send("GET", url, patience_s, auth=None, follow_redirects=True).content

    def random_weights(self, model: str) -> bool:
        """True where the model was never trained: whatever it draws is noise."""
        return _read(Trained, self._send("GET", f"/models/{model}", patience_s=2.0)).random_weights

    def workers(self) -> tuple[KnownWorker, ...]:
        return _read(KnownWorkers, self._send("GET", "/workers", patience_s=2.0)).data

    def drain(self, name: str) -> None:
        self._send("POST", f"/workers/{_part(name)}/drain", patience_s=2.0)

    def release(self, name: str) -> None:
        self._send("POST", f"/workers/{_part(name)}/release", patience_s=2.0)

    def status(self) -> FarmStatus:
        return _read(FarmStatus, self._send("GET", "/status", patience_s=0.0))

    def _job(self, answer: httpx2.Response) -> Job:
        asked_s = float(_retry_after(answer) or LOOPBACK_POLL_S)
        poll_s = LOOPBACK_POLL_S if self._local else min(asked_s, LONGEST_POLL_S)
        return _read(Job, answer).model_copy(update={"poll_s": poll_s})

    def _send(self, method: str, path: str, patience_s: float, **request: Any) -> httpx2.Response:
        give_up_at, pause_s = time.monotonic() + patience_s, FIRST_PAUSE_S
        while True:
            late = time.monotonic() + pause_s > give_up_at
            try:
                answer = self._http.request(method, path, **request)
                if late or answer.status_code not in WORTH_A_RETRY:
                    return _checked(answer)
                pause_s = float(_retry_after(answer) or pause_s)
            except httpx2.TransportError as error:
                if late:
                    raise Unreachable(f"no answer from {self.url}: {error}") from error
            except (
                httpx2.HTTPError
            ) as error:  # redirects without end, a body that cannot be decoded
                raise Unreachable(f"no good answer from {self.url}: {error}") from error
            except (httpx2.InvalidURL, ValueError) as error:  # NaN, half a character, no host name
                raise Refused(f"this cannot be sent: {error}", "", None, None) from error
            time.sleep(min(pause_s, LONGEST_PAUSE_S))
            pause_s *= 2


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _part(name: str) -> str:
    """One part of a path, whatever was typed."""
    return quote(name, safe="")


def _bearer(key: str) -> Callable[[httpx2.Request], httpx2.Request]:
    def sign(request: httpx2.Request) -> httpx2.Request:
        request.headers["Authorization"] = f"Bearer {key}"
        return request

    return sign


def _read(kind: type[V], answer: httpx2.Response) -> V:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise Unreachable(f"{answer.url} does not answer like a render farm") from error


def _retry_after(answer: httpx2.Response) -> int | None:
    text = answer.headers.get("retry-after", "")
    return int(text[:9]) if text.isdecimal() else None


def _checked(answer: httpx2.Response) -> httpx2.Response:
    """The answer if it is a good one; else its problem as an error, field and request id named."""
    if answer.is_success:
        return answer
    problem = _problem(answer)
    fault = problem.get("error")
    if not isinstance(fault, dict):  # another server's word, such as a proxy's
        fault = {}
    field, request_id = fault.get("param"), problem.get("request_id")
    where = f"{field}: " if field else ""
    message = f"{where}{problem.get('detail') or answer.reason_phrase}"
    request = f", request {request_id}" if request_id else ""
    message += f" (HTTP {answer.status_code}{request})"
    if answer.status_code < 500:
        raise Refused(message, fault.get("code") or "", field, request_id)
    raise Unreachable(message)


def _problem(answer: httpx2.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
