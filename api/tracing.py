"""The layer that puts each request in a trace: its client's, else one that begins here."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.traces import Span, Traces, Unrecorded, read_context, within


class RequestSpan:
    """Records requests that may order something; others only name their client's trace in the log.

    Polls would bury the rest. The answer to a recorded request bears `traceresponse`.
    Source: W3C Trace Context Level 2, 4.
    """

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = read_context(headers.getlist("traceparent"), headers.getlist("tracestate"))
        if scope["method"] != "POST":
            with within(Unrecorded(given)):
                await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                _answered(scope, span, message["status"])
                if span.context and span.context != given:
                    MutableHeaders(scope=message)["traceresponse"] = span.context.parent
            await send(message)

        span = self._traces.begin("POST", "server", given)
        try:
            with within(span):
                await self._app(scope, receive, told)
        finally:
            span.end()


def _answered(scope: Scope, span: Span, status: int) -> None:
    route = getattr(scope.get("route"), "path", "") or "unmatched"
    span.rename(f"POST {route}")
    span.tell(method="POST", route=route, status=status, request=scope["state"]["request_id"])
    if status >= 500:
        span.fail(str(status))
