"""Leaving in order: refuse new orders, answer everything else for a while, then stop listening.

The while is for whoever sends clients here: until a load balancer has read `/readyz`, or Kubernetes
has taken the pod out of its service, requests still come, and none of them may be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.datastructures import MutableHeaders

from api.errors import Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_S = 1  # another process of the API takes the order at once


class Drain:
    """Whether this process is leaving, and since when. `clock` gives seconds."""

    def __init__(self, grace_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace_s = grace_s
        self._clock = clock
        self._over_at: float | None = None

    @property
    def begun(self) -> bool:
        return self._over_at is not None

    @property
    def over(self) -> bool:
        return self._over_at is not None and self._clock() >= self._over_at

    def begin(self) -> None:
        """Leave in `grace_s`; called again, at once."""
        self._over_at = self._clock() + (0.0 if self.begun else self._grace_s)

    def refuse_orders(self) -> None:
        """Raises Problem `draining` while the process is leaving."""
        if self.begun:
            raise leaving()


def leaving() -> Problem:
    """The answer to an order that another process may still take."""
    detail = "this process of the farm is leaving; send the order again"
    return Problem(503, "draining", detail, headers={"Retry-After": str(RETRY_S)})


class DrainingServer(uvicorn.Server):
    """uvicorn that drains at the first signal; the second ends the wait, the third all waiting."""

    def __init__(
        self, config: uvicorn.Config, drain: Drain, leave: Callable[[], None] = lambda: None
    ) -> None:
        """`leave` ends all waiting; it is called in the event loop when the drain is over."""
        super().__init__(config)
        self._drain = drain
        self._leave = leave

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self._drain.over
        self._drain.begin()

    async def on_tick(self, counter: int) -> bool:
        if self._drain.over:
            self._leave()
        return await super().on_tick(counter) or self._drain.over


class LastAnswer:
    """While the process leaves, every answer closes its connection: the next goes elsewhere."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.begun:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing)
