"""Everything that waits: for the end of a job, or for what happens to it. Nobody who waits holds a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from itertools import chain
from typing import TypeVar

from api.hub import Hub, Topic, Watcher
from api.live import Live
from shared.errors import StoreUnavailable
from shared.events import Event, Passing, event_of
from shared.jobs import Job
from shared.store.port import JobStore

T = TypeVar("T")
LAST_S = 25.0  # less than the server gives its last requests


class Watch:
    """One for each process of the API; works in whichever event loop it is asked from.

    `open_live` makes the subscription of a loop, when somebody first waits in it.
    """

    def __init__(
        self,
        store: JobStore,
        open_live: Callable[[], Live],
        present: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`present` is entered for as long as somebody waits."""
        self._store = store
        self._present = present
        self._open_live = open_live
        self._hubs: dict[asyncio.AbstractEventLoop, tuple[Hub, asyncio.Task[None]]] = {}
        self._leaving = self._gone = False

    @property
    def watchers(self) -> int:
        return sum(hub.watchers for hub, _ in tuple(self._hubs.values()))

    async def wait_done(self, job_id: str, limit_s: float, *, to_the_last: bool = False) -> Job:
        """The job as soon as it is done, else as it is after `limit_s` or when this process leaves.

        `to_the_last`: for a client that cannot ask another process; it is kept `LAST_S` longer.
        An outage of the store is waited out while the limit lasts. Raises JobNotFound (also if it is
        deleted meanwhile) and StoreUnavailable.
        """
        hub, watcher = self._hub(), Watcher()
        async with self._watching(hub, job_id, watcher):
            try:
                async with asyncio.timeout(limit_s):
                    while not self._ends(to_the_last):
                        job = await self._look(hub, job_id)
                        if job and job.done:
                            return job
                        await watcher.woken()
            except TimeoutError:
                pass
            return await hub.read(self._store.get, job_id)

    async def follow(
        self, job_id: str, after: str | None = None, *, to_the_last: bool = False
    ) -> AsyncGenerator[Event | Passing, None]:
        """Every stored event later than `after` (None: all), in order and once, and what passes.

        Ends after the final event. Also ends, without one, when this process leaves, the job is gone,
        or `after` is no event of it: ask for the job then. Passing events come from now on only, and
        a slow reader loses some; one called `ping` comes each 15 s, for who must not fall silent.
        Leave it through `contextlib.aclosing`, or its subscription stays for a while.
        """
        hub, watcher = self._hub(), Watcher(follows=True, last=event_of(after))
        if after is not None and watcher.last is None:
            return
        async with self._watching(hub, job_id, watcher) as topic:
            while not self._ends(to_the_last):
                news = await self._missed(hub, topic, watcher, job_id)
                if news is None:
                    return
                for said in chain(news, watcher.take()):
                    yield said
                    if isinstance(said, Event) and said.is_final:
                        return
                await watcher.woken()

    async def read(self, ask: Callable[[], T]) -> T:
        """Ask the store for one who waits: in threads of their own, so that orders find others free."""
        return await self._hub().read(ask)

    @asynccontextmanager
    async def _watching(self, hub: Hub, job_id: str, watcher: Watcher) -> AsyncIterator[Topic]:
        with self._present():
            async with hub.watching(job_id, watcher) as topic:
                yield topic

    async def _missed(
        self, hub: Hub, topic: Topic, watcher: Watcher, job_id: str
    ) -> list[Event] | None:
        """Stored events that it was not told; None: there will be no more."""
        if not watcher.behind:
            return []
        over, watcher.behind = topic.over, False
        try:
            after = watcher.last.id if watcher.last else None
            missed = await hub.read(self._store.events, job_id, after)
        except StoreUnavailable:
            return []  # the hub looks again
        if missed:
            watcher.last = missed[-1]
        return None if over and not missed else missed

    async def _look(self, hub: Hub, job_id: str) -> Job | None:
        try:
            return await hub.read(self._store.get, job_id)
        except StoreUnavailable:
            return None  # the hub looks again

    def leave(self) -> None:
        """This process leaves: whoever waits in this event loop is answered, at once or at last."""
        loop, first = asyncio.get_running_loop(), not self._leaving
        self._leaving = True
        self._wake(loop)
        if first:
            loop.call_later(LAST_S, self._go, loop)

    def _go(self, loop: asyncio.AbstractEventLoop) -> None:
        self._gone = True
        self._wake(loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if hub := self._hubs.get(loop):
            hub[0].wake()

    def _ends(self, to_the_last: bool) -> bool:
        return self._gone if to_the_last else self._leaving

    def _hub(self) -> Hub:
        loop = asyncio.get_running_loop()
        if loop not in self._hubs:
            hub = Hub(self._store, self._open_live())
            self._hubs[loop] = hub, loop.create_task(self._run(hub, loop))
        return self._hubs[loop][0]

    async def _run(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        """For as long as the loop: one connection is cheaper than one for each who waits."""
        try:
            await hub.run()
        finally:
            self._hubs.pop(loop, None)
