"""Who watches which job in one event loop, and what wakes them.

A watcher hears of its job over the subscription. As that may miss something and says nothing of the
queue, every watched job is also looked at each `TICK_S`, many in one call.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter

from api.live import Live
from shared.errors import StoreUnavailable
from shared.events import PING, POSITION, PROGRESS, Event, Passing, read_event
from shared.store.port import JobStore
from shared.store.values import Pulse

T = TypeVar("T")
log = logging.getLogger("api")

TICK_S = 2.0
TOGETHER_S = 0.05  # after an outage subscriptions come back one by one: look once for many
BATCH = 100  # jobs in one look: the server does nothing else meanwhile
JOIN_S = 1.0  # a watcher waits so long for its subscription, then it looks without
MOVES_PER_S = 25  # each costs a look at a job: of very many in a queue each is told less often
PROGRESS_S = 1.0  # least time between two words about the steps of one image
PING_S = 13.0  # by the tick after this one 15 s of silence are not over
READERS = 8  # threads that read for all watchers: orders find others free
BACKLOG = 16  # a client that reads too slowly loses what passes; stored events are read again


@dataclass(slots=True, eq=False)
class Watcher:
    """One who waits for the end of a job or, if it `follows`, for all that comes after `last`."""

    follows: bool = False
    last: Event | None = None
    behind: bool = True  # something may have been missed: ask the store
    pinged_at: float = field(default_factory=time.monotonic)
    _heard: deque[Event | Passing] = field(default_factory=lambda: deque(maxlen=BACKLOG))
    _waked: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, said: Event | Passing) -> None:
        if self.follows:
            self._heard.append(said)
            self._waked.set()
        elif isinstance(said, Event) and said.is_final:
            self.look()

    def look(self) -> None:
        """Something may have happened that it was not told."""
        self.behind = True
        self._waked.set()

    def misses(self, pulse: Pulse) -> bool:
        return pulse.open == 0 or (self.follows and pulse.events != self._known)

    async def woken(self) -> None:
        await self._waked.wait()
        self._waked.clear()

    def take(self) -> Iterator[Event | Passing]:
        """What it heard, without what it has already; ends, `behind`, before a gap."""
        while self._heard:
            said = self._heard.popleft()
            if isinstance(said, Passing):
                yield said
            elif said.number == self._known + 1:
                self.last = said
                yield said
            elif said.number > self._known:
                self._heard.clear()
                self.look()

    @property
    def _known(self) -> int:
        return self.last.number if self.last else 0


@dataclass(slots=True, eq=False)
class Topic:
    """One job that is watched. `over`: nothing more will happen to it."""

    watchers: set[Watcher] = field(default_factory=set)
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    position: int | None = None
    over: bool = False
    stepped_at: dict[int, float] = field(default_factory=dict)  # image -> monotonic seconds

    def hear(self, said: Event | Passing) -> None:
        for watcher in self.watchers:
            watcher.hear(said)

    def look(self, pulse: Pulse | None) -> None:
        """None: the job is gone."""
        self.over = pulse is None or pulse.open == 0
        for watcher in self.watchers:
            if pulse is None or watcher.misses(pulse):
                watcher.look()

    def moves(self, position: int | None) -> bool:
        """Whether those who follow were told another place in the queue."""
        follows = any(watcher.follows for watcher in self.watchers)
        return follows and position not in (None, self.position)

    def move(self, position: int | None) -> None:
        self.position = position
        self.hear(Passing(POSITION, {"position": position}))

    def ping(self, now: float) -> None:
        for watcher in self.watchers:
            if now - watcher.pinged_at > PING_S:
                watcher.pinged_at = now
                watcher.hear(Passing(PING))


class Hub:
    """All that waits in one event loop, behind one subscription."""

    def __init__(self, store: JobStore, live: Live) -> None:
        self._store = store
        self._live = live
        self._topics: dict[str, Topic] = {}
        self._readers = CapacityLimiter(READERS)
        self._look_now = asyncio.Event()

    @property
    def watchers(self) -> int:
        return sum(len(topic.watchers) for topic in self._topics.values())

    async def run(self) -> None:
        """Listen and look until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._tick())

    async def read(self, ask: Callable[..., T], *args: Any) -> T:
        """Ask the store in one of the threads that are kept for those who wait."""
        return await anyio.to_thread.run_sync(partial(ask, *args), limiter=self._readers)

    @asynccontextmanager
    async def watching(self, job_id: str, watcher: Watcher) -> AsyncIterator[Topic]:
        """Within it the watcher is told of the job."""
        topic = self._topics.get(job_id)
        if topic is None:
            topic = self._topics[job_id] = Topic()
            self._live.add(job_id)
        topic.watchers.add(watcher)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(JOIN_S):
                    await topic.joined.wait()
            yield topic
        finally:
            topic.watchers.discard(watcher)
            if not topic.watchers:
                del self._topics[job_id]
                self._live.remove(job_id)

    def wake(self) -> None:
        """Everybody looks again."""
        for topic in self._topics.values():
            for watcher in topic.watchers:
                watcher.look()

    async def _listen(self) -> None:
        while True:
            try:
                await self._live.run(self._hear, self._joined)
            except Exception:
                log.exception("listening_failed")
            await asyncio.sleep(TICK_S)

    def _joined(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            if topic := self._topics.get(job):
                if topic.joined.is_set():  # again, so there was an outage
                    self._look_now.set()
                topic.joined.set()

    def _hear(self, job: str, message: str) -> None:
        if topic := self._topics.get(job):
            said = _read(message)
            if said and not _too_soon(said, topic.stepped_at):
                topic.hear(said)

    async def _tick(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._look_now.wait()
                    await asyncio.sleep(TOGETHER_S)
            self._look_now.clear()
            try:
                await self._look()
            except StoreUnavailable:
                pass  # the next turn asks again
            except Exception:
                log.exception("watch_failed")

    async def _look(self) -> None:
        now, jobs = time.monotonic(), list(self._topics)
        for job in jobs:
            if topic := self._topics.get(job):
                topic.ping(now)
        moves_left = MOVES_PER_S * TICK_S
        for at in range(0, len(jobs), BATCH):
            batch = jobs[at : at + BATCH]
            pulses = await self.read(self._store.pulse, batch)
            for job in batch:
                topic, pulse = self._topics.get(job), pulses.get(job)
                if topic is None:
                    continue
                topic.look(pulse)
                if pulse and moves_left > 0 and topic.moves(pulse.position):
                    moves_left -= 1
                    topic.move(pulse.position)
                    self._topics[job] = self._topics.pop(job)  # the others come first next time


def _read(message: str) -> Event | Passing | None:
    """None: a newer version speaks, of what this one does not know."""
    try:
        if message.startswith("{"):
            data = json.loads(message)
            return Passing(data.pop("type"), data)
        number, _, line = message.partition(" ")
        return read_event(int(number), line)
    except (ValueError, KeyError):
        return None


def _too_soon(said: Event | Passing, stepped_at: dict[int, float]) -> bool:
    """Steps of one image are told once in `PROGRESS_S`."""
    if said.type != PROGRESS or not isinstance(said, Passing):
        return False
    index, now = said.data["index"], time.monotonic()
    if now - stepped_at.get(index, float("-inf")) < PROGRESS_S:
        return True
    stepped_at[index] = now
    return False
