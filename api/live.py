"""What is said of jobs while it happens: one subscription for a whole process of the API.

It may miss something whenever its connection breaks, so whoever listens also asks the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import redis
from redis.asyncio.connection import AbstractConnection

from shared.keys import KEYS
from shared.logs import event
from shared.store.address import connection
from shared.store.faults import fault_of
from shared.store.memory_events import MemoryEvents

log = logging.getLogger("api")
Hear = Callable[[str, str], None]  # job, what is said on its channel
Join = Callable[[Iterable[str]], None]  # jobs of which everything is heard from now on
Commands = asyncio.Queue[tuple[str, list[str]]]

QUIET_S = 5.0  # a connection that is silent for so long is asked whether it lives
LONGEST_PAUSE_S = 2.0
STEADY_S = 10.0  # a connection that lasted so long was no part of the outage before it
BATCH = 500  # channels in one command


class Live(Protocol):
    """One subscription; every method is called in the event loop that runs it."""

    async def run(self, hear: Hear, joined: Join) -> None:
        """Listen until canceled, through every outage."""

    def add(self, job_id: str) -> None: ...

    def remove(self, job_id: str) -> None: ...


class RedisLive:
    """One connection to Redis, subscribed to the channels of the jobs that are watched now."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._jobs: set[str] = set()
        self._commands: Commands | None = None  # those of the connection, while there is one

    def add(self, job_id: str) -> None:
        self._jobs.add(job_id)
        if self._commands:
            self._commands.put_nowait(("SUBSCRIBE", [job_id]))

    def remove(self, job_id: str) -> None:
        self._jobs.discard(job_id)
        if self._commands:
            self._commands.put_nowait(("UNSUBSCRIBE", [job_id]))

    async def run(self, hear: Hear, joined: Join) -> None:
        pause_s, silent = 0.0, False
        while True:
            begun = time.monotonic()
            try:
                await self._listen(hear, joined)
            except (redis.RedisError, OSError) as error:
                lasted = time.monotonic() - begun > STEADY_S
                if lasted or not silent:  # once for an outage
                    event(log, "not_listening", logging.WARNING, reason=_reason(error))
                pause_s, silent = 0.0 if lasted else pause_s, True
            pause_s = min(max(0.05, 2 * pause_s), LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _listen(self, hear: Hear, joined: Join) -> None:
        """One connection's life. Raises redis.RedisError, OSError."""
        async with connection(self._url) as wire:
            self._commands = commands = Commands()
            jobs = sorted(self._jobs)
            for at in range(0, len(jobs), BATCH):
                commands.put_nowait(("SUBSCRIBE", jobs[at : at + BATCH]))
            writer = asyncio.create_task(self._write(wire, commands))
            try:
                await self._read(wire, hear, joined)
            finally:
                self._commands = None
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, wire: AbstractConnection, commands: Commands) -> None:
        """A write that fails closes the connection, and so ends the reading.

        It also ends where a write to a server that is gone has swallowed its cancellation.
        """
        while self._commands is commands:
            verb, jobs = await commands.get()
            channels = [KEYS["live"] + job for job in jobs]
            await wire.send_command(verb, *channels, check_health=False)

    async def _read(self, wire: AbstractConnection, hear: Hear, joined: Join) -> None:
        asked = False
        while True:
            # Whoever cancels this closes the connection after the writer has ended, not under it.
            answer = await wire.read_response(timeout=QUIET_S, disconnect_on_error=False)
            if answer is None and asked:
                raise redis.TimeoutError
            asked = answer is None
            if asked:
                await wire.send_command("PING", check_health=False)
            elif isinstance(answer, list) and answer[0] == "message":
                hear(_job(answer[1]), answer[2])
            elif isinstance(answer, list) and answer[0] == "subscribe":
                joined([_job(answer[1])])


def _job(channel: str) -> str:
    return channel.removeprefix(KEYS["live"])


def _reason(error: Exception) -> str:
    return str(fault_of(error)) if isinstance(error, redis.RedisError) else type(error).__name__


class Deaf:
    """Hears nothing: the store alone tells, a little later."""

    def __init__(self) -> None:
        self._jobs: set[str] = set()
        self._joined: Join = lambda jobs: None

    def add(self, job_id: str) -> None:
        self._jobs.add(job_id)
        self._joined([job_id])

    def remove(self, job_id: str) -> None:
        self._jobs.discard(job_id)

    async def run(self, hear: Hear, joined: Join) -> None:
        self._joined = joined
        joined(self._jobs)
        await asyncio.get_running_loop().create_future()  # until canceled


class MemoryLive(Deaf):
    """What a store in this process says."""

    def __init__(self, store: MemoryEvents) -> None:
        super().__init__()
        self._store = store

    async def run(self, hear: Hear, joined: Join) -> None:
        loop = asyncio.get_running_loop()

        def heard(job: str, message: str) -> None:
            loop.call_soon_threadsafe(hear, job, message)

        self._store.listen(heard)
        try:
            await super().run(hear, joined)
        finally:
            self._store.unlisten(heard)
