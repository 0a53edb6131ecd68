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
from prometheus_client import CollectorRegistry, ProcessCollector

from shared.errors import FarmError
from shared.gc import find_inputs, find_waste, sweep, sweep_inputs
from shared.logs import event, setup
from shared.metrics import CallMetrics, ChoresMetrics, counted, open_page
from shared.results import open_results
from shared.results.inputs import Inputs
from shared.results.port import ResultStore
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
        metrics: ChoresMetrics | None = None,
    ) -> None:
        self._store = store
        self._gc = gc
        self._file = liveness_file
        self._metrics = metrics or ChoresMetrics(CollectorRegistry())
        self._collecting = Thread()

    def show(self) -> None:
        """That the chores go round; whether they can do anything is for the log to say."""
        if self._file:
            show(self._file, "ready")

    def turn(self, name: str) -> None:
        if name == "gc":  # it ends later, and counts itself then
            self.gc()
        else:
            run(name, getattr(self, name), self._metrics)

    def reap(self) -> None:
        moved = self._store.reap()
        for render in moved.requeued:
            self._note("reaped", logging.WARNING, render=render)
        for render in moved.failed:
            self._note("poisoned", logging.WARNING, render=render, code="worker_lost")

    def expire(self) -> None:
        for job in self._store.expire().expired:
            self._note("expired", job=job)

    def unattended(self) -> None:
        for job in self._store.unattended().abandoned:
            self._note("abandoned", job=job)

    def reconcile(self) -> None:
        if added := self._store.reconcile():
            self._metrics.changes.labels("tickets_added").inc(added)
            event(log, "tickets_added", tickets=added)

    def audit(self) -> None:
        for render in self._store.audit().requeued:
            self._note("repaired", logging.WARNING, render=render)

    def gc(self) -> None:
        """In a thread, since a walk over a large storage must not hold up the reaper."""
        if not self._collecting.is_alive():
            collecting = ("gc", self._gc, self._metrics)
            self._collecting = Thread(target=run, args=collecting, name="gc", daemon=True)
            self._collecting.start()

    def _note(self, what: str, level: int = logging.INFO, **fields: str) -> None:
        self._metrics.changes.labels(what).inc()
        event(log, what, level, **fields)


def collect(
    settings: Settings, store: JobStore, results: ResultStore, metrics: ChoresMetrics
) -> None:
    """Delete stored pictures that nobody needs. Raises StoreUnavailable, ResultsUnavailable."""
    retention_s = settings.result_retention_s
    inputs = Inputs(results)
    forgotten = list(sweep_inputs(inputs, find_inputs(store, inputs)))
    gone: list[int] = []
    if retention_s:
        found = find_waste(store, results, now=time.time(), retention_s=retention_s)
        gone = [waste.kept.size_bytes for waste in sweep(store, results, found)]
    metrics.changes.labels("pictures_collected").inc(len(gone))
    metrics.changes.labels("bytes_collected").inc(sum(gone))
    metrics.changes.labels("inputs_collected").inc(len(forgotten))
    event(log, "collected", pictures=len(gone), bytes=sum(gone), inputs=len(forgotten))


EVERY_S = {
    "show": 1.0, "reap": 1.0, "expire": 1.0, "unattended": 1.0, "reconcile": 1.0, "audit": 60.0
}  # fmt: skip


def in_process(chores: Chores) -> type[beat.Scheduler]:
    """A beat scheduler that does the chore instead of sending it."""

    class InProcess(beat.Scheduler):
        producer: Any = None  # nothing is sent, so no broker is needed

        def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> None:
            chores.turn(entry.task)

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


def run(name: str, chore: Callable[[], None], metrics: ChoresMetrics) -> None:
    """One turn; whatever goes wrong, there is a next one."""
    begun, well = time.perf_counter(), False
    try:
        chore()
        well = True
    except FarmError as error:
        event(log, "chore_failed", logging.WARNING, chore=name, reason=str(error))
    except Exception:
        log.exception("internal error in chore %s", name)
    metrics.ran(name, time.perf_counter() - begun, well=well)


def serve(settings: Settings) -> None:
    """Run the chores until SIGTERM or SIGINT."""
    setup("chores", settings.log_level, settings.log_format)
    traces = open_traces("chores", settings)
    app = make_app(settings)
    app.conf.beat_schedule = timetable(steady())
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics, calls = ChoresMetrics(registry), CallMetrics(registry)
    for name in (*EVERY_S, "gc"):
        metrics.expect(name)
    open_page(settings.worker_metrics_host, settings.chores_metrics_port, registry, log)
    store = counted(open_store(settings, patience_s=5.0), "jobs", calls)
    results = counted(open_results(settings), "results", calls)
    report(store, log)
    chores = Chores(
        store, lambda: collect(settings, store, results, metrics), settings.liveness_file, metrics
    )
    service = beat.Service(app, max_interval=1, scheduler_cls=in_process(chores))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    courier = Courier.of(settings, store, metrics=metrics, traces=traces)
    courier.start()
    event(log, "started", chores=",".join(EVERY_S))
    service.start()
    courier.stop()
    traces.close()
    event(log, "stopped")
