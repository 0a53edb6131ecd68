"""A whole farm on one machine: Redis, API, chores and workers as children of this process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from deploy.children import Backoff, Child, Clock, Program, Report, stop_all
from deploy.ports import bound, free_port
from deploy.slots import Slot
from shared.cgroup import OomWatch
from shared.errors import FarmError, SettingsError
from shared.settings import PREFIX, Settings, environment, variable

PART_GRACE_S = 10.0  # the chores, and the API after its drain, have little to finish
DRAIN_MARGIN_S = 10.0  # a worker gives its render back after `drain_s`; this is for the way out
REFUSED = frozenset({2})  # the exit code of wrong settings: starting again cannot help
TARGETS = "metrics-targets.json"
ROOT = Path(__file__).parent.parent
# -P: a folder `cli` where the operator happens to stand must not be taken for ours
COMMAND = (sys.executable, "-P", "-m", "cli.main")


class Server(Protocol):
    """The embedded Redis."""

    @property
    def url(self) -> str: ...
    @property
    def alive(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class LocalFarm:
    """The children of one farm. Call `start`, then `tick` a few times a second, then `stop`."""

    def __init__(
        self,
        settings: Settings,
        model: str,
        slots: Sequence[Slot],
        redis: Server | None,
        report: Report,
        command: tuple[str, ...] = COMMAND,
        clock: Clock = time,
    ) -> None:
        self._settings = settings
        self._model = model
        self._slots = slots
        self._redis = redis
        self._report = report
        self._command = command
        self._clock = clock
        self._oom = OomWatch()  # the children live in the cgroup of this process
        self._redis_backoff = Backoff()
        self._redis_started_at = self._redis_due_at = 0.0
        self._pages: list[str] = []  # host:port
        self.api: list[Child] = []
        self.workers: list[Child] = []
        self.chores: list[Child] = []

    def start(self) -> None:
        """Raises FarmError when Redis does not start."""
        if self._redis:
            self._redis.start()
            self._redis_started_at = self._clock.monotonic()
        drain = {variable("api_drain_s"): str(self._api_drain_s)}
        self.api = [self._child("api", "api", **drain)]
        self._pages = [f"{reachable(self._settings.host)}:{self._settings.port}"]
        page = {variable("chores_metrics_port"): self._page(self._settings.chores_metrics_port)}
        self.chores = [self._child("chores", "chores", **page)]
        self.workers = [self._worker(index, slot) for index, slot in enumerate(self._slots)]
        self._write_targets()
        for child in self._children:
            child.start()

    def tick(self) -> None:
        """Start again what died. Raises FarmError when a part refuses its settings."""
        self._tend_redis()
        self._oom.look()
        for child in self._children:
            child.tick()
            if child.gave_up:
                reason = child.last_words() or f"see {child.program.log}"
                raise FarmError(f"{child.program.name}: {reason}")

    def stop(self, hurry: Callable[[], bool]) -> None:
        """End every process: no new orders, then workers finish or give back, Redis last."""
        drain_s = self._settings.drain_s + DRAIN_MARGIN_S
        api_s = self._api_drain_s + PART_GRACE_S
        for children, grace_s in (
            (self.api, api_s), (self.workers, drain_s), (self.chores, PART_GRACE_S)
        ):  # fmt: skip
            stop_all(children, grace_s, hurry, self._clock)
        if self._redis:
            self._redis.stop()

    def _write_targets(self) -> None:
        """Where this farm's metrics are, for the `file_sd_configs` of a Prometheus."""
        file = self._settings.data_dir / TARGETS
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([{"targets": self._pages}]))

    def _page(self, port: int | None) -> str:
        """The port of one more page of metrics: this, or a free one. Raises SettingsError."""
        host = self._settings.worker_metrics_host
        try:
            port = port or free_port(host)
        except OSError as error:
            name = variable("worker_metrics_host")
            raise SettingsError(f"{name}: cannot listen on {host} ({error.strerror})") from error
        self._pages.append(f"{reachable(host)}:{port}")
        return str(port)

    @property
    def _api_drain_s(self) -> float:
        """No load balancer stands before this farm, so nobody waits unless it is asked for."""
        return self._settings.api_drain_s if "api_drain_s" in self._settings.model_fields_set else 0

    @property
    def _children(self) -> list[Child]:
        return [*self.api, *self.chores, *self.workers]

    def _tend_redis(self) -> None:
        now = self._clock.monotonic()
        if self._redis is None or self._redis.alive or now < self._redis_due_at:
            return
        pause_s = self._redis_backoff.after(now - self._redis_started_at)
        self._redis_started_at, self._redis_due_at = now, now + pause_s
        self._report("redis died; starting it again")
        address = self._redis.url
        try:
            self._redis.start()
        except FarmError as error:
            self._report(f"redis: {error}; next try in {pause_s:g} s")
        if self._redis.url != address:
            raise FarmError("redis lost its port to another program; start the farm again")

    def _worker(self, index: int, slot: Slot) -> Child:
        base = self._settings.worker_metrics_port
        env = {
            **slot.env,
            variable("worker_name"): slot.name,
            variable("worker_metrics_port"): self._page(base and base + index),
        }
        from worker.exits import WORDS

        name = f"worker-{slot.name}"
        program = self._program(name, "worker", "--model", self._model, **env)
        program = replace(program, exit_words=WORDS, killed=self._oom.words)
        return Child(program, self._report, self._clock)

    def _child(self, name: str, *arguments: str, **env: str) -> Child:
        return Child(self._program(name, *arguments, **env), self._report, self._clock)

    def _program(self, name: str, *arguments: str, **env: str) -> Program:
        log = self._settings.data_dir / "logs" / f"{name}.log"
        argv, full_env = (*self._command, *arguments), {**self._environment(), **env}
        return Program(name, argv, full_env, log, REFUSED)

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        path = os.pathsep.join(filter(None, (str(ROOT), inherited.get("PYTHONPATH"))))
        env = {**inherited, **environment(self._settings), "PYTHONPATH": path}
        return env | ({variable("redis_url"): self._redis.url} if self._redis else {})


def reachable(host: str) -> str:
    """Where this machine reaches what binds that address, as it stands in a URL."""
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - nothing is bound here
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def bindable(host: str, port: int) -> int:
    """The port if it is free on this address; for 0 one that is. Raises SettingsError."""
    try:
        with bound(host, port):  # a host that is not ours is told before a port is searched
            return port or free_port(host)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        message = f"cannot listen on {host} port {port} ({why}); choose another with --port"
        raise SettingsError(message) from error
