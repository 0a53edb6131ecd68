"""The worker's heartbeat: its state in the job store, and a file that a container probe can read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Condition, Thread
from typing import Literal

from shared.errors import StoreUnavailable
from shared.logs import event
from shared.store.port import JobStore
from shared.store.values import (
    Gpu,
    LoadingStep,
    Standing,
    WorkerStatus,
)
from worker.liveness import show
from worker.loading.steps import STEPS

log = logging.getLogger("farm.worker")
BEAT_S = 1.0
TTL_S = 10.0
FAILED_TTL_S = 3600.0  # the reason of a failed start outlives the process

State = Literal["loading", "ready", "busy", "draining", "quarantined", "failed"]


class Heart:
    """Beats once a second, and at once when the state says something new.

    The file says that this process runs its threads, and its state; that it consumes is for the
    watchdog to say.
    Each beat is answered with the worker's `standing`; `on_drain` is called when that becomes an
    order to drain.
    """

    def __init__(self, store: JobStore, status: WorkerStatus, liveness_file: Path | None) -> None:
        steps = tuple(LoadingStep(name=name, status="waiting") for name in STEPS)
        self._store = store
        self._status = status.model_copy(update={"steps": steps})
        self._file = liveness_file
        self.standing = Standing()
        self.on_drain: Callable[[], None] | None = None
        self._started: dict[str, float] = {}
        self._changed = Condition()
        self._now = self._stopped = False
        self._thread = Thread(target=self._run, name="heart", daemon=True)

    @property
    def name(self) -> str:
        return self._status.name

    @property
    def state(self) -> str:
        return self._status.state

    @property
    def loaded_s(self) -> dict[str, float]:
        """Seconds of each loading step that was done."""
        return {s.name: s.seconds for s in self._status.steps if s.seconds is not None}

    def start(self) -> None:
        """Beat once, so that the standing is known, then go on in a thread."""
        self._beat()
        self._thread.start()

    def say(self, state: State, error: str | None = None, note: str | None = None) -> None:
        self._update(state=state, error=error, note=note)

    def placed(self, placement: str) -> None:
        """Where its model's weights rest: what the entry says, or what its profile came to."""
        self._update(at_once=False, placement=placement)

    def loaded(self, seconds: float) -> None:
        """How long it took from nothing to a model that draws."""
        self._update(at_once=False, load_s=round(seconds, 3))

    def busy(self, render_id: str) -> None:
        self._update(at_once=False, render=render_id, **self._unless_draining("busy"))

    def idle(self, gpu: Gpu | None = None) -> None:
        self._update(at_once=False, render=None, gpu=gpu, **self._unless_draining("ready"))

    def step(self, name: str, status: str) -> None:
        """A loading step was reached; seconds are taken here."""
        seconds = None
        if status == "running":
            self._started[name] = time.monotonic()
        elif name in self._started:
            seconds = round(time.monotonic() - self._started[name], 3)
        event(log, "loading", step=name, status=status, seconds=seconds)
        reached = LoadingStep.model_validate({"name": name, "status": status, "seconds": seconds})
        steps = tuple(reached if old.name == name else old for old in self._status.steps)
        self._update(steps=steps)

    def stop(self, *, leave: bool = True) -> None:
        """Stop beating. `leave`: forget this worker; else its last state stays to be read."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread.is_alive():  # else it was stopped while it was being started
            self._thread.join()
        try:
            if leave:
                self._store.leave(self._status.name)
            else:
                self._store.heartbeat(self._status, FAILED_TTL_S)
        except StoreUnavailable as error:
            event(log, "no_heartbeat", logging.WARNING, reason=str(error))
        if self._file:
            self._file.unlink(missing_ok=True)

    def _unless_draining(self, state: State) -> dict[str, State]:
        return {} if self._status.state == "draining" else {"state": state}

    def _update(self, *, at_once: bool = True, **fields: object) -> None:
        with self._changed:
            self._status = self._status.model_copy(update=fields)
            self._now |= at_once
            if at_once:
                self._changed.notify()

    def _run(self) -> None:
        while not self._stopped:
            self._beat()
            with self._changed:
                if not self._now and not self._stopped:
                    self._changed.wait(BEAT_S)
                self._now = False

    def _beat(self) -> None:
        if self._file:
            show(self._file, self._status.state)
        try:
            self.standing = self._store.heartbeat(self._status, TTL_S)
        except StoreUnavailable as error:
            event(log, "no_heartbeat", logging.WARNING, reason=str(error))
        if self.standing.drain and self.on_drain:
            self.on_drain()
            self.on_drain = None
