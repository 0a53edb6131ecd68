"""A worker in a thread, for routes that answer only when the picture is there; and calls cut short."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shared.models import ModelEntry
from shared.store.values import Claim
from tests.api_kit import TINY, Farm, worker


@contextmanager
def painting(farm: Farm, *, fail: str | None = None) -> Iterator[list[Claim]]:
    """A ready worker that draws whatever comes, or fails it with this code; what it claimed."""
    ready(farm)
    stopped, claims = threading.Event(), list[Claim]()

    def work() -> None:
        while not stopped.wait(0.002):
            if fail:
                if farm.pending:
                    farm.fail(fail)
            elif claimed := farm.claim():
                claims.append(claimed)
                farm.finish(claimed)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield claims
    finally:
        stopped.set()
        thread.join()


def ready(farm: Farm, model: ModelEntry = TINY) -> None:
    """There is a worker, but it takes nothing by itself."""
    farm.store.heartbeat(worker("ready", model), 60.0)


class Call:
    """One request to the app in this event loop, whose client may leave before the answer."""

    def __init__(self, app: Any, path: str, body: dict[str, Any], **headers: str) -> None:
        self._left = asyncio.Event()
        self._unread = [json.dumps(body).encode()]
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        named = {"content-type": "application/json", "host": "farm.test", **headers}
        raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in named.items()]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST",
            "http_version": "1.1", "scheme": "http", "path": path, "raw_path": path.encode(),
            "query_string": b"", "root_path": "", "headers": raw, "client": ("127.0.0.1", 1),
            "server": ("farm.test", 80), "state": {},
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._unread:
            return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        else:
            self.body += message.get("body", b"")

    async def leave(self) -> None:
        """The connection is cut, and the app has noticed."""
        self._left.set()
        await asyncio.wait_for(self.task, 10)

    async def answer(self) -> dict[str, Any]:
        await asyncio.wait_for(self.task, 10)
        return dict(json.loads(self.body))


async def until(condition: Any, limit_s: float = 10.0) -> None:
    """Poll until the condition holds; fail after the limit."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)
