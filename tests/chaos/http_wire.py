"""The wire between farm and S3: whole requests are seen, and the next ones can go wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from tests.chaos.link import PIECE_BYTES, Link, Proxy

Wrong = Literal["cut", "deaf", "error", "hang", "reset"]
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(slots=True, frozen=True)
class Trouble:
    """How one request goes wrong: `cut` half way through its body, executed but never answered
    (`deaf`), answered 500 (`error`), held for `hang_s` and then reset (`hang`), or `reset`.
    """

    wrong: Wrong
    hang_s: float = 0.0


class HttpWire(Proxy):
    """`hit` counts requests that went wrong, by how. Troubles are for uploads, one each, in order."""

    def __init__(self, upstream_port: int) -> None:
        self.hit: Counter[str] = Counter()
        self._troubles: list[Trouble] = []
        super().__init__(upstream_port)

    def trouble(self, *troubles: Trouble) -> None:
        self._do(lambda: self._troubles.extend(troubles))

    def calm(self) -> None:
        self._do(self._troubles.clear)

    async def _serve(self, link: Link) -> None:
        await link.relay(self._requests(link), self._answers(link))

    async def _requests(self, link: Link) -> None:
        while True:
            head = await link.from_client.readuntil(b"\r\n\r\n")
            if head.startswith(b"PUT ") and self._troubles:
                trouble = self._troubles.pop(0)
                self.hit[f"s3 {trouble.wrong}"] += 1
                if not await self._goes_wrong(link, head, trouble):
                    return
            else:
                await self._pass(link, head, _body_bytes(head))

    async def _goes_wrong(self, link: Link, head: bytes, trouble: Trouble) -> bool:
        """False: the connection is over."""
        if trouble.wrong == "deaf":
            link.deaf = True
            await self._pass(link, head, _body_bytes(head))
            return True
        if trouble.wrong == "cut":
            await self._pass(link, head, _body_bytes(head) // 2)
        if trouble.wrong == "error":
            link.deaf = True
            link.to_client.write(ERROR)
            await link.to_client.drain()
            return False
        await asyncio.sleep(trouble.hang_s)
        link.reset()
        return False

    async def _pass(self, link: Link, head: bytes, body_bytes: int) -> None:
        link.to_server.write(head)
        await link.to_server.drain()
        while body_bytes:
            data = await link.from_client.read(min(PIECE_BYTES, body_bytes))
            if not data:
                raise ConnectionError
            body_bytes -= len(data)
            link.to_server.write(data)
            await link.to_server.drain()

    async def _answers(self, link: Link) -> None:
        while data := await link.from_server.read(PIECE_BYTES):
            if link.deaf and not data.startswith(b"HTTP/1.1 100"):  # the body may come
                link.reset()
                return
            link.to_client.write(data)
            await link.to_client.drain()


def _body_bytes(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
