"""The wire between farm and Redis: it knows which script a request runs, and can strike there.

A strike hits exactly one request, before the server sees it or after the server has executed it and
before the client knows. So a process can be killed between any two steps of its work, from outside.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from threading import Event
from typing import Literal

import psutil

from shared.store.scripts import SCRIPTS
from tests.chaos.link import PIECE_BYTES, Link, Proxy, process_behind
from tests.chaos.resp import Requests

When = Literal["before", "after"]


@dataclass(slots=True, eq=False)
class Strike:
    """What happens to the next request that runs `script`: `deed` gets the process that sent it.

    `words` must all be among the request's words. The connection is reset in any case; without a
    deed that is all.
    """

    script: str
    when: When
    deed: Callable[[psutil.Process], None] | None = None
    words: frozenset[str] = frozenset()
    struck: Event = field(default_factory=Event)


class RedisWire(Proxy):
    """`seen` counts requests by the script that they ran."""

    def __init__(self, upstream_port: int) -> None:
        self.seen: Counter[str] = Counter()
        self._names: dict[str, str] = {}  # sha1 of a loaded script -> its name
        self._bodies = {name: _source(name) for name in SCRIPTS}
        self._armed: list[Strike] = []
        super().__init__(upstream_port)

    def arm(self, strike: Strike) -> Strike:
        self._do(lambda: self._armed.append(strike))
        return strike

    def disarm(self) -> None:
        self._do(self._armed.clear)

    def go_deaf(self) -> None:
        """Every connection of now is half open from here on; new ones work."""

        def deafen() -> None:
            for link in self.links:
                link.deaf = True

        self._do(deafen)

    async def _serve(self, link: Link) -> None:
        struck: list[Strike] = []  # after the answer
        await link.relay(self._requests(link, struck), self._answers(link, struck))

    async def _requests(self, link: Link, struck: list[Strike]) -> None:
        requests = Requests()
        while data := await link.from_client.read(PIECE_BYTES):
            if link.deaf:
                continue
            for raw, words in requests.feed(data):
                strike = self._strike(words)
                if strike and strike.when == "before":
                    return await self._hit(link, strike)
                if strike:
                    struck.append(strike)
                link.to_server.write(raw)
            await link.to_server.drain()
        return None

    async def _answers(self, link: Link, struck: list[Strike]) -> None:
        while data := await link.from_server.read(PIECE_BYTES):
            if struck and data.startswith(b"-NOSCRIPT"):  # nothing was executed: not this time
                self._armed.append(struck.pop())
            if struck:
                return await self._hit(link, struck.pop())
            if not link.deaf:
                link.to_client.write(data)
                await link.to_client.drain()
        return None

    def _strike(self, words: list[bytes]) -> Strike | None:
        verb = words[0].upper() if words else b""
        if verb == b"SCRIPT" and words[1].upper() == b"LOAD":
            self._learn(words[2])
        name = self._names.get(words[1].decode()) if verb == b"EVALSHA" else None
        if name is None:
            return None
        self.seen[name] += 1
        said = {word.decode("utf-8", "replace") for word in words[2:]} if self._armed else set()
        for strike in self._armed:
            if strike.script == name and strike.words <= said:
                self._armed.remove(strike)
                return strike
        return None

    def _learn(self, body: bytes) -> None:
        ending = [name for name, source in self._bodies.items() if body.endswith(source)]
        if ending:
            name = max(ending, key=lambda name: len(self._bodies[name]))
            self._names[hashlib.sha1(body).hexdigest()] = name

    async def _hit(self, link: Link, strike: Strike) -> None:
        if strike.deed:
            process = await asyncio.to_thread(process_behind, link.peer_port, self.port)
            if process:
                strike.deed(process)
        link.reset()
        strike.struck.set()


def _source(name: str) -> bytes:
    return (resources.files("shared.store") / "lua" / f"{name}.lua").read_bytes()
