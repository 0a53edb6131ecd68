"""Two ends of a connection through a proxy, and the thread that all proxies run in."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
PIECE_BYTES = 65536
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """One client's connection and ours to the server behind."""

    def __init__(self, client: Ends, server: Ends) -> None:
        self.from_client, self.to_client = client
        self.from_server, self.to_server = server
        self.deaf = False  # half open: bytes vanish both ways and nobody is told

    @property
    def peer_port(self) -> int:
        return int(self.to_client.get_extra_info("peername")[1])

    def reset(self) -> None:
        """Both ends see `connection reset by peer`, at once."""
        for writer in (self.to_client, self.to_server):
            bare: socket.socket | None = writer.get_extra_info("socket")
            with suppress(OSError, AttributeError):
                assert bare is not None
                bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def relay(self, *ways: Coroutine[Any, Any, None]) -> None:
        """Run both directions until one ends, then hang up."""
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.to_client.close()
            self.to_server.close()


class Proxy(ABC):
    """Listens on a loopback port of its own from construction on; `close` resets what is open.

    A subclass says in `_serve` what happens to one link. Methods that other threads call go
    through `_do`.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self.links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._wait(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self.cut()
        self._do(self._server.close)
        self._wait(self._cancelled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection of now."""
        self._do(lambda: [link.reset() for link in tuple(self.links)])

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _do(self, act: Callable[[], Any]) -> None:
        async def once() -> None:
            act()

        self._wait(once())

    async def _cancelled(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        except OSError:  # the server is down: the client finds that out as it would without us
            writer.transport.abort()
            return
        link = Link((reader, writer), server)
        self.links.add(link)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(link)
        finally:
            self.links.discard(link)

    @abstractmethod
    def _serve(self, link: Link) -> Awaitable[None]:
        """What happens to one link; done when it ends."""


def process_behind(port: int, proxy_port: int) -> psutil.Process | None:
    """The process whose connection to the proxy has this local port; None if it is gone."""
    for each in psutil.net_connections("tcp4"):
        if not (each.pid and each.laddr and each.raddr):
            continue
        if (each.laddr.port, each.raddr.port) == (port, proxy_port):
            with suppress(psutil.NoSuchProcess):
                return psutil.Process(each.pid)
    return None
