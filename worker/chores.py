"""What must happen now and then, whoever is alive: reap, expire, reconcile, audit, gc; webhooks.

Celery's beat is the clock. The chores run inside it, not as messages: they repair what a broken
broker leaves behind, so they must not travel through it; and while nobody runs them nothing piles
up. Every chore is one idempotent step, so two of these processes do no harm.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

from celery import beat
from celery.schedules import crontab, schedule

from shared.errors import FarmError
from shared.gc import find_inputs, find_waste, sweep, sweep_inputs
from shared.logs import event, setup
from shared.results import open_results
from shared.results.inputs import Inputs
from shared.settings import Settings
from shared.store import open_store
from shared.store.checks import report
from shared.store.port import JobStore
from shared.tickets import make_app
from shared.traces import open_traces
from worker.liveness import show
from worker.webhooks import Courier

log = logging.getLogger("farm.chores")


class Chores:
    """One method a chore; each logs what it changed."""

    def __init__(
        self,
        store: JobStore,
        gc: Callable[[], None] = lambda: None,
        liveness_file: Path | None = None,
    ) -> None:
        self._store = store
        self._gc = gc
        self._file = liveness_file
        self._collecting = Thread()

    def show(self) -> None:
        """That the chores go round; whether they can do anything is for the log to say."""
        if self._file:
            show(self._file, "ready")

    def reap(self) -> None:
        moved = self._store.reap()
        for render in moved.requeued:
            event(log, "reaped", logging.WARNING, render=render)
        for render in moved.failed:
            event(log, "poisoned", logging.WARNING, render=render, code="worker_lost")

    def expire(self) -> None:
        for job in self._store.expire().expired:
            event(log, "expired", job=job)

    def unattended(self) -> None:
        for job in self._store.unattended().abandoned:
            event(log, "abandoned", job=job)

    def reconcile(self) -> None:
        if added := self._store.reconcile():
            event(log, "tickets_added", tickets=added)

    def audit(self) -> None:
        for render in self._store.audit().requeued:
            event(log, "repaired", logging.WARNING, render=render)

    def gc(self) -> None:
        """In a thread, since a walk over a large storage must not hold up the reaper."""
        if not self._collecting.is_alive():
            self._collecting = Thread(target=run, args=("gc", self._gc), name="gc", daemon=True)
            self._collecting.start()


def collect(settings: Settings, store: JobStore) -> None:
    """Delete stored pictures that nobody needs. Raises StoreUnavailable, ResultsUnavailable."""
    results, retention_s = open_results(settings), settings.result_retention_s
    inputs = Inputs(results)
    forgotten = list(sweep_inputs(inputs, find_inputs(store, inputs)))
    gone: list[int] = []
    if retention_s:
        found = find_waste(store, results, now=time.time(), retention_s=retention_s)
        gone = [waste.kept.size_bytes for waste in sweep(store, results, found)]
    event(log, "collected", pictures=len(gone), bytes=sum(gone), inputs=len(forgotten))


EVERY_S = {
    "show": 1.0, "reap": 1.0, "expire": 1.0, "unattended": 1.0, "reconcile": 1.0, "audit": 60.0
}  # fmt: skip


def in_process(chores: Chores) -> type[beat.Scheduler]:
    """A beat scheduler that does the chore instead of sending it."""

    class InProcess(beat.Scheduler):
        producer: Any = None  # nothing is sent, so no broker is needed

        def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> None:
            run(entry.task, getattr(chores, entry.task))

    return InProcess


def steady() -> Callable[[], datetime]:
    """The time of now, UTC, going on evenly: a clock set back would hold up beat until it is over."""
    started, at_s = datetime.now(UTC), time.monotonic()
    return lambda: started + timedelta(seconds=time.monotonic() - at_s)


def timetable(clock: Callable[[], datetime]) -> dict[str, dict[str, Any]]:
    """All entries by one clock, since beat compares their times."""
    times: dict[str, Any] = {
        name: schedule(every_s, nowfun=clock) for name, every_s in EVERY_S.items()
    }
    times["gc"] = crontab(hour=3, minute=30, nowfun=clock)  # a farm may start anew each day
    return {name: {"task": name, "schedule": time} for name, time in times.items()}


def run(name: str, chore: Callable[[], None]) -> None:
    """One turn; whatever goes wrong, there is a next one."""
    try:
        chore()
    except FarmError as error:
        event(log, "chore_failed", logging.WARNING, chore=name, reason=str(error))
    except Exception:
        log.exception("internal error in chore %s", name)


def serve(settings: Settings) -> None:
    """Run the chores until SIGTERM or SIGINT."""
    setup("chores", settings.log_level, settings.log_format)
    traces = open_traces("chores", settings)
    app = make_app(settings)
    app.conf.beat_schedule = timetable(steady())
    store = open_store(settings, patience_s=5.0)
    report(store, log)
    chores = Chores(store, lambda: collect(settings, store), settings.liveness_file)
    service = beat.Service(app, max_interval=1, scheduler_cls=in_process(chores))
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: service.stop())
    courier = Courier.of(settings, store, traces=traces)
    courier.start()
    event(log, "started", chores=",".join(EVERY_S))
    service.start()
    courier.stop()
    traces.close()
    event(log, "stopped")
