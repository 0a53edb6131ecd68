"""A client of the application in the test's own event loop: it reads as the answer comes, and leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.types import Message

LIMIT_S = 10.0


@dataclass
class Told:
    """One server-sent event."""

    type: str
    id: str | None
    data: Any


@dataclass
class Call:
    """One request in the making. `leave` is the client hanging up."""

    request: bytes = b""
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _left: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: bool = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.request, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        async with self._news:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                self.body += message.get("body", b"")
                self.ended = not message.get("more_body", False)
            self._news.notify_all()

    def leave(self) -> None:
        self._left.set()

    def told(self) -> list[Told]:
        """Whole events so far, without pings."""
        blocks = [block for block in self.body.decode().split("\n\n")[:-1] if "event: " in block]
        fields = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
        return [Told(f["event"], f.get("id"), json.loads(f["data"])) for f in fields]

    def types(self) -> list[str]:
        return [told.type for told in self.told()]

    async def until(self, condition: Any, limit_s: float = LIMIT_S) -> None:
        """Wait until the condition holds of what has come."""
        async with asyncio.timeout(limit_s), self._news:
            await self._news.wait_for(lambda: condition(self))

    async def end(self) -> None:
        await self.until(lambda call: call.ended)


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Poll, in an event loop, until the condition holds."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, f"waited {LIMIT_S} s in vain {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def calling(
    app: FastAPI, url: str, method: str = "GET", body: bytes = b"", **headers: str
) -> AsyncIterator[Call]:
    """The request runs beside the block; at its end the client hangs up and all must be over."""
    call, parts = Call(body), urlsplit(url)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": parts.path, "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(), "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("farm.test", 80),
        "headers": [(b"host", b"farm.test"), *((k.encode(), v.encode()) for k, v in named.items())],
    }  # fmt: skip
    task = asyncio.create_task(app(scope, call.receive, call.send))
    try:
        yield call
    finally:
        call.leave()
        async with asyncio.timeout(LIMIT_S):
            await task
