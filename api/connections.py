"""One connection of a client, with the bounds that uvicorn lacks.

uvicorn waits for ever for a request that has begun, and for the first byte of a new connection: its
only timer runs between two requests. So a few thousand connections that send a byte now and then
hold a server. Here a request has so long to arrive, head and body, and no longer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from typing import Any

import h11
from ulid import ULID
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import Problem, described
from shared.logs import event

log = logging.getLogger("api")
SPARE_FILES = 256  # for Redis, storage, the log
_REASONS = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


class BoundedConnection(H11Protocol):
    """`request_timeout_s` 0: no bound."""

    def __init__(
        self, *args: Any, request_timeout_s: float, max_connections: int, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._request_timeout_s = request_timeout_s
        self._max_connections = max_connections
        self._timer: asyncio.TimerHandle | None = None
        self._is_new = True  # nothing has come yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            detail = "this process of the farm has as many connections as it may"
            retry = {"Retry-After": "1"}
            self._refuse(Problem(503, "too_many_connections", detail, headers=retry))
        self._look()

    def data_received(self, data: bytes) -> None:
        self._is_new = False
        if not self.transport.is_closing():
            super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "invalid_value", "this is no HTTP request that can be read"))

    @property
    def _is_arriving(self) -> bool:
        """Whether a part of a request is missing; between two requests none is."""
        if self.conn.their_state is h11.IDLE:
            return self._is_new or bool(self.conn.trailing_data[0])
        return self.conn.their_state is h11.SEND_BODY

    def _look(self) -> None:
        if self.transport.is_closing() or not self._is_arriving:
            self._stop_timer()
        elif self._timer is None and self._request_timeout_s:
            self._timer = self.loop.call_later(self._request_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        event(log, "too_slow", seconds=self._request_timeout_s, begun=not self._is_new)
        if self._is_new:
            self.transport.close()  # nothing was asked, so nothing is answered
            return
        limit = f"within {self._request_timeout_s:g} s"
        self._refuse(Problem(408, "request_timeout", f"the request did not arrive {limit}"))

    def _refuse(self, problem: Problem) -> None:
        """Answer, unless an answer has begun, and close."""
        asked = self.cycle is not None and not self.cycle.response_complete
        if asked:
            self.cycle.disconnected = True  # whoever works at it need not answer any more
            self.cycle.message_event.set()
        if not (asked and self.cycle.response_started) and self.conn.our_state is not h11.DONE:
            self.transport.write(_raw(problem))
        self.transport.close()


def allow_files(max_connections: int) -> None:
    """Raise this process' limit of open files, as far as it may, to what the connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        event(log, "few_files", logging.WARNING, wanted=wanted, allowed=most)


def _raw(problem: Problem) -> bytes:
    """The whole answer as it goes over the wire: no request, no route and no middleware is there."""
    request_id = f"req_{ULID()}"
    body = json.dumps(described(problem, None, request_id)).encode()
    headers = {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(body)),
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": request_id,
        "Connection": "close",
        **problem.headers,
    }
    head = f"HTTP/1.1 {problem.status} {_REASONS[problem.status]}\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{head}{lines}\r\n".encode() + body
