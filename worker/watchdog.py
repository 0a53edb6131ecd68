"""The watchdog: ends a worker that lives but works no more.

The known faults look alike from here: a broker connection that no longer consumes, an event loop
that hangs, a render that nothing stops. In all of them renders wait and this worker takes none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Protocol

from shared.errors import StoreUnavailable
from shared.logs import event
from shared.store.port import JobStore
from shared.store.values import PoolStats

log = logging.getLogger("farm.worker")
LOOKS = 10  # in the time that it allows


class Watched(Protocol):
    """The bench, as the watchdog sees it."""

    @property
    def tickets(self) -> int: ...  # taken so far, whether they found a render or not
    @property
    def at_work(self) -> bool: ...
    @property
    def stuck(self) -> bool: ...  # works on a render that it has lost
    @property
    def draining(self) -> bool: ...


class Watchdog:
    """Calls `bite`, once, after `limit_s` without a ticket while renders wait in `pool`.

    Judged from when renders began to wait: a worker may be idle for as long as there is no work.
    """

    def __init__(
        self,
        bench: Watched,
        store: JobStore,
        pool: str,
        limit_s: float,
        bite: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bench = bench
        self._store = store
        self._pool = pool
        self._limit_s = limit_s
        self._bite = bite
        self._clock = clock
        self._tickets = 0
        self._since: float | None = None
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def look(self) -> bool:
        """Whether the worker is deaf now."""
        tickets, waiting = self._bench.tickets, self._waiting()
        if tickets != self._tickets or not (waiting or self._bench.stuck):
            self._tickets, self._since = tickets, None
            return False
        if self._since is None:
            self._since = self._clock()
        if self._clock() - self._since < self._limit_s:
            return False
        event(
            log, "deaf", logging.ERROR, pool=self._pool, limit_s=self._limit_s,
            pending=waiting and waiting.pending, tickets=waiting and waiting.tickets,
        )  # fmt: skip
        return True

    def _waiting(self) -> PoolStats | None:
        """The pool, if renders wait in it although this worker could take one."""
        if self._bench.at_work or self._bench.draining:
            return None
        try:
            pools = self._store.stats().pools
        except StoreUnavailable:  # then nobody can take anything
            return None
        return next((p for p in pools if p.pool == self._pool and p.pending), None)

    def _run(self) -> None:
        while not self._stopped.wait(self._limit_s / LOOKS):
            if self.look():
                self._bite()
                return
