"""The outermost layers, in plain ASGI: one log line per request, and a bound on bodies."""

from __future__ import annotations

import logging
import re
import time

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from api.errors import Problem, problem_of, respond
from api.headers import secure
from shared import logs
from shared.metrics import ApiMetrics

log = logging.getLogger("api")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_LEFT = 499


class RequestLog:
    """Names each request, counts and logs it, and answers what nobody foresaw with a 500.

    URLs are logged as templates: a query string may hold a signature.
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, *, https: bool = False) -> None:
        """`https`: clients reach the farm by that alone."""
        self._app = app
        self._metrics = metrics
        self._https = https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, begun = Request(scope), time.perf_counter()
        given = request.headers.get("x-request-id", "")
        request.state.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{ULID()}"
        logs.request_id.set(request.state.request_id)  # this task is the request's own
        status = _CLIENT_LEFT

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                _name(headers, request)
                secure(headers, https=self._https)
            await send(message)

        try:
            await self._app(scope, receive, named)
        except ClientDisconnect:
            pass
        except Exception as error:
            if not isinstance(error, Problem):
                log.exception("request_failed", extra={"request_id": request.state.request_id})
            if status != _CLIENT_LEFT:
                raise  # the answer is half sent: only cutting the connection tells the client
            await respond(request, problem_of(error))(scope, receive, named)
        finally:
            self._account(request, status, time.perf_counter() - begun)

    def _account(self, request: Request, status: int, seconds: float) -> None:
        route = getattr(request.scope.get("route"), "path", "") or "unmatched"
        method = request.method if request.method in _METHODS else "OTHER"
        self._metrics.requests.labels(route, method, str(status)).inc()
        if getattr(request.state, "waited", False):  # how long jobs take is no latency of ours
            self._metrics.wait_seconds.labels(route).observe(seconds)
        else:
            self._metrics.request_seconds.labels(route, method).observe(seconds)
        level = logging.WARNING if status >= 500 else logging.INFO
        if code := getattr(request.state, "code", None):
            self._metrics.refusals.labels(code).inc()
        known = {key: getattr(request.state, key, None) for key in ("owner", "code", "job_id")}
        logs.event(
            log,
            "request",
            level,
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            request_id=request.state.request_id,
            owner=known["owner"],
            code=known["code"],
            job=known["job_id"],
        )


def _name(headers: MutableHeaders, request: Request) -> None:
    headers["X-Request-Id"] = request.state.request_id
    if job_id := getattr(request.state, "job_id", None):
        headers["X-Job-Id"] = job_id


class BodyLimit:
    """Refuses a body over the limit: by its declared length, else while it streams in."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Request(scope).headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit():
            self._check(int(declared[:19]))
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            self._check(seen)
            return message

        await self._app(scope, counted, send)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limit_bytes:
            limit_mb = self._limit_bytes / 2**20
            raise Problem(413, "body_too_large", f"a body may have {limit_mb:g} MiB")
