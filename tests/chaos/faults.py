"""The faults of a plan, done to a running farm."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from threading import Event

import psutil
import redis

from shared.keys import KEYS
from tests.chaos.farm import ChaosFarm, freeze, thaw
from tests.chaos.http_wire import Trouble
from tests.chaos.plan import Fault, Plan
from tests.chaos.recovery import Recoveries
from tests.chaos.redis_wire import Strike
from tests.servers.clocks import HOUR_S

BUSY_S = 1.5  # how long a fault waits for a worker that has something to lose
RENDER_S = 0.25  # about half of what the long renders take


class Injector:
    """Does one fault after the other; `done` counts those that happened, by kind."""

    def __init__(self, farm: ChaosFarm, recoveries: Recoveries, *, long: bool = False) -> None:
        self.done: Counter[str] = Counter()
        self.kills = 0
        self._farm = farm
        self._recoveries = recoveries
        self._redis = farm.redis()
        self._over = Event()
        self._lease_s = float(farm.settings["FARM_LEASE_S"])
        self._freeze_s = 30.0 if long else 3.0

    def run(self, plan: Plan) -> None:
        started = time.monotonic()
        for fault in plan.faults:
            self._over.wait(max(0.0, started + fault.at_s - time.monotonic()))
            self.inject(fault)
        self._calm()

    def inject(self, fault: Fault) -> None:
        verb, _, rest = fault.kind.partition(" ")
        words = rest.split()
        if verb in ("kill", "cut") and words[0] in ("before", "after"):
            self._strike(verb, words[0], words[1])
        elif verb == "s3":
            self._s3(rest)
        elif verb == "clock":
            self._clock(rest, fault.draw)
            self.done[fault.kind] += 1
        else:
            act: Callable[[float], None] = getattr(self, "_" + fault.kind.replace(" ", "_"))
            act(fault.draw)
            self.done[fault.kind] += 1

    def _calm(self) -> None:
        """No fault comes any more; what was armed and never met is taken away."""
        self._farm.wire.disarm()
        if self._farm.storage:
            self._farm.storage.calm()
            self.done.update(self._farm.storage.hit)

    # ---------------------------------------------------------------------------- at one step

    def _strike(self, verb: str, when: str, script: str) -> None:
        kind = f"{verb} {when} {script}"

        def kill(process: psutil.Process) -> None:
            self._kill(process, kind)

        def note(process: psutil.Process) -> None:
            self.done[kind] += 1

        deed = kill if verb == "kill" else note
        self._farm.wire.arm(Strike(script, "before" if when == "before" else "after", deed))

    def _s3(self, wrong: str) -> None:
        assert self._farm.storage is not None
        hang_s = 2.0 if wrong == "hang" else 0.0
        self._farm.storage.trouble(Trouble(wrong, hang_s))  # type: ignore[arg-type]

    def _clock(self, kind: str, draw: float) -> None:
        """Wrong by an hour for a while, on or back as drawn: so it jumps both ways.

        Not for good, since S3 refuses whoever is off by a quarter of an hour.
        """
        clock, wrong_s = self._farm.clocks[kind], HOUR_S if draw < 0.5 else -HOUR_S
        clock.jump(wrong_s)
        self._over.wait(2.0 + draw)
        clock.jump(-wrong_s)
        self._watch_progress(f"clock {kind}")

    # ------------------------------------------------------------------------------ processes

    def _kill_worker(self, draw: float) -> None:
        self._kill(self._farm.part(self._busy_worker(draw)))

    def _kill_keeper(self, draw: float) -> None:
        worker = self._farm.part(self._busy_worker(draw))
        with suppress(psutil.NoSuchProcess):
            for process in worker.children():  # none while it starts
                self._kill(process)

    def _kill_api(self, draw: float) -> None:
        self._kill(self._farm.part(self._choose("api", draw)))

    def _kill_chores(self, draw: float) -> None:
        self._kill(self._farm.part(self._choose("chores", draw)))

    def _kill(self, process: psutil.Process, kind: str = "") -> None:
        name = self._farm.name_of(process)
        kind = kind or f"kill {name.partition('-')[0]}"
        held = self._held(name)
        with suppress(psutil.NoSuchProcess):
            process.kill()
            self.kills += 1
        self._watch_killed(kind, name, held)
        if " before " in kind or " after " in kind:
            self.done[kind] += 1

    def _held(self, name: str) -> dict[str, str]:
        """{render: token} of what this worker holds."""
        if not name.startswith("worker"):
            return {}
        with suppress(redis.RedisError):
            renders = self._redis.smembers(KEYS["slot"] + name)
            return {r: str(self._redis.hget(KEYS["render"] + r, "token")) for r in renders}
        return {}

    def _watch_killed(self, kind: str, name: str, held: dict[str, str]) -> None:
        if name.startswith("api"):
            self._recoveries.watch(kind, lambda: self._farm.answers(int(name[-1])))
        for render, token in held.items():
            self._recoveries.watch(kind, lambda r=render, t=token: self._moved_on(r, t))

    def _moved_on(self, render: str, token: str) -> bool:
        owner, state = self._redis.hmget(KEYS["render"] + render, "token", "state")
        return owner != token or state not in ("running", "storing")

    def _terminate_worker(self, draw: float) -> None:
        self._farm.part(self._choose("worker", draw)).terminate()

    def _terminate_api(self, draw: float) -> None:
        self._farm.part(self._choose("api", draw)).terminate()

    def _terminate_chores(self, draw: float) -> None:
        self._farm.part(self._choose("chores", draw)).terminate()

    def _zombie(self, draw: float) -> None:
        """Worker and keeper freeze together for longer than their lease, as a paused machine."""
        name = self._busy_worker(draw)
        worker = self._farm.part(name)
        with suppress(psutil.NoSuchProcess):
            both = [worker, *worker.children()]
            freeze(*both)
            for render, token in self._held(name).items():
                self._recoveries.watch("zombie", lambda r=render, t=token: self._moved_on(r, t))
            self._over.wait(self._lease_s * 1.5 + 1.0)
            thaw(*both)

    def _freeze_worker(self, draw: float) -> None:
        """The worker alone: its keeper goes on, so nothing is taken from it."""
        worker = self._farm.part(self._choose("worker", draw))
        freeze(worker)
        self._over.wait(self._lease_s * 1.2)
        thaw(worker)

    def _busy_worker(self, draw: float) -> str:
        """One that holds a render, at some moment of it; after a while any."""
        end = time.monotonic() + BUSY_S
        while time.monotonic() < end:
            for name in self._farm.names("worker"):
                if self._held(name):
                    self._over.wait(draw * RENDER_S)
                    return name
            self._over.wait(0.005)
        return self._choose("worker", draw)

    def _choose(self, part: str, draw: float) -> str:
        names = self._farm.names(part)
        return names[int(draw * len(names))]

    # ----------------------------------------------------------------------- Redis and the wire

    def _redis_killed(self, draw: float) -> None:
        self._farm.redis_process.kill()
        self.kills += 1
        self._over.wait(draw)
        since = time.monotonic()
        self._farm.revive_redis()
        self._watch_progress("redis killed", since)

    def _redis_frozen(self, draw: float) -> None:
        server = self._farm.redis_process
        freeze(server)
        try:
            self._over.wait(self._freeze_s)
        finally:
            thaw(server)
        self._watch_progress("redis frozen")

    def _redis_full(self, draw: float) -> None:
        """Every write that needs memory is refused for a while."""
        try:
            self._redis.config_set("maxmemory", 1)
            self._over.wait(1.0 + draw)
        finally:
            self._redis.config_set("maxmemory", 0)
        self._watch_progress("redis full")

    def _cut_all(self, draw: float) -> None:
        self._farm.wire.cut()
        self._watch_progress("cut all")

    def _half_open(self, draw: float) -> None:
        self._farm.wire.go_deaf()
        self._watch_progress("half open")

    def _client_kill(self, draw: float) -> None:
        self._redis.client_kill_filter(_type="normal", skipme=True)
        self._watch_progress("client kill")

    def _watch_progress(self, kind: str, since: float | None = None) -> None:
        """Until the farm has finished a render again."""
        with suppress(redis.RedisError):
            before = self._redis.hget(KEYS["totals"], "succeeded")
            totals = KEYS["totals"]
            self._recoveries.watch(
                kind, lambda: self._redis.hget(totals, "succeeded") != before, since
            )
