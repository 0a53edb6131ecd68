"""The keeper: a tiny process beside each worker that keeps its leases.

It imports neither torch nor Celery, so it renews while a kernel compile or a C extension holds the
worker's interpreter for seconds. It is told over a pipe what is held and how far it is, and answers
what was canceled or lost. When the pipe closes because the worker died, it gives everything back at
once, with what it knows of the cause. It ends with the pipe and with nothing else.

    worker -> keeper   {"redis_url", "store", "slot", "lease_s", "max_render_s", "oom_kills", "log"}   once
                       {"claim": token}   before it claims, one at a time; null: it got nothing
                       {"hold": token, "render": id}   {"step": token, "n": 3}   {"drop": token}
                       {"bye": cause or null}      before it leaves; null: in order
    keeper -> worker   {"cancel": token}   {"lost": token}                       once each
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from shared.cgroup import OomWatch
from shared.errors import StoreUnavailable
from shared.logs import event, setup
from shared.store.address import connect
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Cause

log = logging.getLogger("farm.keeper")
Tell = Callable[[dict[str, Any]], None]
PATIENCE_S, BRIEF_S = 60.0, 2.0  # how long a store that is away is asked, with and without a render
BEAT_S = 0.5  # how often leases are renewed; so also how soon a cancel is heard of


@dataclass(slots=True)
class _Held:
    render: str
    give_up_at: float  # monotonic; a render that runs longer is hung
    step: int = 0
    told: bool = False


class Keeper:
    """What the process does, apart from pipes. `tell` sends one line to the worker."""

    def __init__(
        self,
        store: JobStore,
        lease_s: float,
        max_render_s: float,
        tell: Tell,
        oom_kills: int | None = None,
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._max_render_s = max_render_s
        self._tell = tell
        self._held: dict[str, _Held] = {}
        self._claiming: str | None = None  # nobody knows yet what that claim gets
        self._end: Cause | None = "worker_lost"  # unless the worker says goodbye
        self._oom = OomWatch(oom_kills)

    @property
    def busy(self) -> bool:
        """Whether a render waits for what this keeper has to say."""
        return bool(self._held or self._claiming)

    def hear(self, line: dict[str, Any]) -> None:
        if "claim" in line:
            self._claiming = line["claim"]
        elif "hold" in line:
            self._claiming = None
            give_up_at = time.monotonic() + self._max_render_s
            self._held[line["hold"]] = _Held(line["render"], give_up_at)
        elif "step" in line and line["step"] in self._held:
            self._held[line["step"]].step = line["n"]
        elif "drop" in line:
            self._held.pop(line["drop"], None)
        elif "bye" in line:
            self._end = line["bye"]

    def renew(self) -> None:
        """Renew all leases but those of hung renders; pass on what was canceled or lost."""
        self._oom.look()
        now = time.monotonic()
        for token, held in self._held.items():
            if now > held.give_up_at and not held.told:
                event(log, "hung", logging.WARNING, render=held.render)
                self._say("lost", token, held)
        alive = {t: (h.render, h.step) for t, h in self._held.items() if now <= h.give_up_at}
        for token, standing in self._store.renew(alive, self._lease_s).items():
            if standing != "held" and not self._held[token].told:
                self._say(standing, token, self._held[token])

    def _say(self, standing: str, token: str, held: _Held) -> None:
        held.told = True
        self._tell({standing: token})

    def give_back(self, store: JobStore, slot: str) -> None:
        """The worker is gone: its renders go to others now, not when their leases end."""
        words = self._oom.words() if self._end == "worker_lost" else None
        end: Cause | None = "container_memory" if words else self._end
        if words:
            event(log, "container_memory", logging.ERROR, worker=slot, reason=words)
        if end:
            store.died(slot, end)
        cause = end or "worker_lost"
        for token, held in self._held.items():
            if store.release(held.render, token, lost=True, cause=cause, detail=words or ""):
                event(log, "given_back", logging.WARNING, render=held.render, reason=cause)
        if end and self._claiming:  # whether it was sent, executed, or neither
            render = store.revoke(self._claiming, cause=cause, detail=words or "")
            if render:
                event(log, "given_back", logging.WARNING, render=render, reason=cause)


def main() -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    pipe = _Lines(sys.stdin.fileno())
    hello = pipe.read(None)
    if not hello:
        return
    config = hello[0]
    setup("keeper", *config["log"])
    store_config = StoreConfig(**config["store"])
    store = RedisJobStore(connect(config["redis_url"], patience_s=2.0), store_config)
    keeper = Keeper(
        store,
        config["lease_s"],
        config["max_render_s"],
        _teller(sys.stdout),
        config["oom_kills"],
    )
    for line in hello[1:]:
        keeper.hear(line)
    _serve(keeper, pipe, min(BEAT_S, config["lease_s"] / 4))
    patient = connect(config["redis_url"], patience_s=PATIENCE_S if keeper.busy else BRIEF_S)
    try:
        keeper.give_back(RedisJobStore(patient, store_config), config["slot"])
    except StoreUnavailable as error:  # then leases end by themselves
        event(log, "not_given_back", logging.WARNING, reason=str(error))


def _serve(keeper: Keeper, pipe: _Lines, beat_s: float) -> None:
    parent, next_beat = os.getppid(), time.monotonic() + beat_s
    while os.getppid() == parent:
        lines = pipe.read(max(0.0, next_beat - time.monotonic()))
        if lines is None:
            return
        for line in lines:
            keeper.hear(line)
        if time.monotonic() >= next_beat:
            next_beat = time.monotonic() + beat_s
            try:
                keeper.renew()
            except StoreUnavailable as error:
                event(log, "not_renewed", logging.WARNING, reason=str(error))
    while lines := pipe.read(0):  # what the worker wrote before it died, while this one renewed
        for line in lines:
            keeper.hear(line)


class _Lines:
    """JSON lines from a file descriptor, without blocking longer than asked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def read(self, limit_s: float | None) -> list[Any] | None:
        """What came within the limit; None when the other end is closed."""
        ready, _, _ = select.select([self._fd], [], [], limit_s)
        if not ready:
            return []
        data = os.read(self._fd, 65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


def _teller(out: IO[str]) -> Tell:
    def tell(line: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the worker is gone; the closed pipe says so too
            print(json.dumps(line), file=out, flush=True)

    return tell


if __name__ == "__main__":
    main()
