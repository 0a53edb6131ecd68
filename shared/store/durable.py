"""When an order may be answered 202: its script has run, and what it wrote will not be lost.

`always`   the server syncs its log before it answers anybody (appendfsync always): nothing to wait
           for, and the server syncs many clients' orders at once.
`waitaof`  WAITAOF behind the script, on the same connection, waits for the server's next sync: with
           appendfsync everysec that is up to a second. From Redis 7.2 on; `auto` does not trust
           Valkey's, see shared/store/server.py.
`off`      the answer promises no more than the server does.

A replayed order waits as well: WAITAOF covers all that the server wrote before it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

from shared.errors import NotDurable, StoreRefuses
from shared.store.server import Server, look

Promise = Literal["always", "waitaof", "off"]
Wanted = Literal["auto", "always", "waitaof", "off"]
WAIT_MS = 1_500  # a sync each second, and a slow disk; less than the API's socket timeout
LOOK_S = 10.0  # an operator may change the server while the farm runs


@dataclass(slots=True)
class Durable:
    """Runs scripts whose effect must last. `replicas` must have it too, in memory at least."""

    client: redis.Redis
    wanted: Wanted = "off"
    replicas: int = 0
    _promise: Promise = "off"
    _looked_at: float = float("-inf")

    def run(self, script: Script, argument: str) -> Any:
        """The script's answer. Raises NotDurable: it has run, but nobody promises that it stays."""
        waits = self._promised() == "waitaof"
        if not waits and not self.replicas:
            return script(args=[argument])
        answer, synced, copies = self._together(script, argument, waits=waits)
        if synced < waits:
            raise NotDurable(f"Redis did not sync the order to its disk in {WAIT_MS} ms")
        if copies < self.replicas:
            raise NotDurable(f"{copies} of {self.replicas} replicas had the order in {WAIT_MS} ms")
        return answer

    def _together(self, script: Script, argument: str, *, waits: bool) -> tuple[Any, int, int]:
        """One round trip: the script's answer, servers that synced it, replicas that have it."""
        while True:
            pipe = self.client.pipeline(transaction=False)
            pipe.evalsha(script.sha, 0, argument)
            if waits:
                pipe.waitaof(1, 0, WAIT_MS)
            if self.replicas:
                pipe.wait(self.replicas, WAIT_MS)
            answer, *counts = pipe.execute(raise_on_error=False)
            if not isinstance(answer, NoScriptError):
                break
            script.sha = self.client.script_load(script.script)  # the server is a new one
        for said in (answer, *counts):
            if isinstance(said, Exception):
                raise said
        synced = counts.pop(0)[0] if waits else 0
        return answer, synced, counts.pop() if self.replicas else 0

    def _promised(self) -> Promise:
        """What the server can promise now. Raises StoreRefuses when that is less than wanted."""
        if self.wanted == "off":
            return "off"
        if time.monotonic() - self._looked_at > LOOK_S:
            self._promise = choose(self.wanted, look(self.client))
            self._looked_at = time.monotonic()
        return self._promise


def choose(wanted: Wanted, server: Server) -> Promise:
    """Raises StoreRefuses, in words for the operator."""
    if wanted == "auto":
        if server.syncs_always:
            return "always"
        return "waitaof" if server.has_aof and server.waitaof_is_true else "off"
    able: dict[Promise, bool] = {
        "always": server.syncs_always,
        "waitaof": server.has_aof and server.knows_waitaof,
        "off": True,
    }
    if not able[wanted]:
        raise StoreRefuses(f"FARM_DURABILITY is {wanted}, which {server.described} cannot do")
    return wanted
