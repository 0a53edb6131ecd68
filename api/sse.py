"""Server-sent events on the wire (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.prefer import gone

MEDIA_TYPE = "text/event-stream"
SCHEMA = {  # of one event
    "type": "object",
    "properties": {
        "event": {"type": "string", "description": "What happened", "examples": ["job.running"]},
        "data": {"type": "string", "description": "JSON", "examples": ["{}"]},
        "id": {"type": "string", "description": "Where to go on", "examples": ["7-1767610800000"]},
        "retry": {"type": "integer", "description": "ms to rest", "examples": [2000]},
    },
}
SEND_S = 30.0  # a client that reads nothing for so long has left
PING = b": ping\n\n"
HEADERS = {
    "Content-Type": f"{MEDIA_TYPE}; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would keep what it is sent
}


def message(event: str, data: str, event_id: str | None = None) -> bytes:
    """One event; `data` is a single line."""
    named = f"id: {event_id}\n" if event_id else ""
    return f"{named}event: {event}\ndata: {data}\n\n".encode()


class EventStream(Response):
    """A stream that ends with its parts, or as soon as its client is gone.

    Not Starlette's StreamingResponse, which finds out only when it sends again, and waits without end
    for a client that does not read.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None]) -> None:
        super().__init__(status_code=200, headers=HEADERS)
        del self.headers["content-length"]
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group, aclosing(self._parts) as parts:

            async def listen() -> None:
                await gone(receive)
                group.cancel_scope.cancel()

            group.start_soon(listen)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for part in parts:
                await _send(send, part, more=True)
            await _send(send, b"", more=False)
            group.cancel_scope.cancel()


async def _send(send: Send, part: bytes, *, more: bool) -> None:
    with anyio.move_on_after(SEND_S):
        await send({"type": "http.response.body", "body": part, "more_body": more})
        return
    raise ClientDisconnect
