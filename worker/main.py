"""The worker's composition root: one process, one device, one pipeline, one render at a time."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from threading import Thread
from typing import Any

from celery import signals
from celery.exceptions import SecurityWarning
from prometheus_client import CollectorRegistry, ProcessCollector
from ulid import ULID

from shared.catalog import load_catalog
from shared.errors import DeviceFault, FarmError
from shared.fingerprint import pure
from shared.images import PictureInfo
from shared.keys import queue_name
from shared.logs import event, setup
from shared.loras import LoraEntry
from shared.metrics import (
    CallMetrics,
    CardCollector,
    HostCollector,
    Labelled,
    WorkerMetrics,
    counted,
    open_page,
)
from shared.models import ModelEntry
from shared.results import open_results
from shared.results.inputs import Inputs
from shared.results.port import ResultStore
from shared.settings import Settings, load_settings
from shared.store import open_store
from shared.store.checks import report
from shared.store.port import JobStore
from shared.store.scripts import StoreConfig
from shared.store.values import (
    Claim,
    WorkerStatus,
)
from shared.tickets import TASK, make_app, ticket_template
from shared.traces import Traces, open_traces
from worker import exits
from worker.card import open_card
from worker.duty import wait_for_duty
from worker.engines.port import Picture, Renderer
from worker.exits import Ending
from worker.health import Health
from worker.heart import Heart
from worker.inputs import Pantry
from worker.keep import Keep
from worker.leases import Leases
from worker.previews import Gallery
from worker.render import Bench, Seat
from worker.watchdog import Watchdog

log = logging.getLogger("farm.worker")
PATIENCE_S = 60.0  # a worker waits so long for Redis to come back before it lets go of a render
HEART_PATIENCE_S = 1.0


def serve(settings: Settings, model: str | None = None) -> int:
    """Load the model, then answer tickets until SIGTERM or SIGINT; the exit code (worker/exits.py).

    SIGTERM drains: the running render has `drain_s` to finish, then it is given back; what is being
    stored is stored. An order to drain does the same; a worker that starts while the order stands,
    or in quarantine, waits before it loads anything.
    """
    from worker.loading.devices import card_uuid, pick_device

    setup("worker", settings.log_level, settings.log_format)
    ending = Ending()
    signal.signal(signal.SIGTERM, ending.interrupt)  # until Celery takes over
    catalog = load_catalog(settings.models_file, settings.default_model)
    entry = catalog.find(model) if model else catalog.default
    device = pick_device(settings.device)
    name = settings.worker_name or f"{socket.gethostname()}-{device.replace(':', '')}"
    traces = open_traces("worker", settings, name)
    registry = CollectorRegistry()
    metrics, calls = WorkerMetrics(registry), CallMetrics(registry)
    _show_metrics(settings, registry, name, entry.id, card_uuid(device))
    store = counted(open_store(settings, patience_s=PATIENCE_S), "jobs", calls)
    with ExitStack() as stack:
        stack.callback(traces.close)
        heart = _heart(settings, store, entry, name, device)
        stack.callback(lambda: heart.stop(leave=heart.state != "failed"))
        heart.start()
        try:
            wait_for_duty(heart, settings.quarantine_after)
            heart.on_drain = ending.leave
            # Before the model: the keeper also tells what killed a worker that was loading.
            leases = _start_leases(settings, name)
            stack.callback(lambda: leases.close(ending.cause))
            renderer = _load(settings, entry, device, heart, catalog.loras)
            ending.check()
        except FarmError as error:
            ending.code = exits.NOT_LOADED
            if isinstance(error, DeviceFault):
                ending.code = exits.DEVICE_FAULT
                store.unwell(name, str(ULID()))
            event(log, "not_loaded", logging.ERROR, model=entry.id, reason=str(error))
            heart.say("failed", str(error))
        else:
            metrics.loaded(heart.loaded_s)
            results = counted(open_results(settings), "results", calls)
            _work(
                settings, entry, name, store, results, metrics, renderer, heart, leases, ending, stack,
                traces,
            )  # fmt: skip
    if ending.code == exits.DEVICE_FAULT:
        os._exit(ending.code)  # CUDA's own way out would fail again, or hang
    return ending.code


def _show_metrics(
    settings: Settings, registry: CollectorRegistry, name: str, model: str, card: str | None
) -> None:
    """Serve this worker's metrics from now on, while it loads too."""
    ProcessCollector(registry=registry)
    registry.register(HostCollector())
    registry.register(CardCollector(open_card(card)))
    shown = CollectorRegistry()
    shown.register(Labelled(registry, {"worker": name, "model": model}))
    open_page(settings.worker_metrics_host, settings.worker_metrics_port, shown, log)


def _heart(settings: Settings, store: JobStore, entry: ModelEntry, name: str, device: str) -> Heart:
    status = WorkerStatus(
        name=name,
        pool=entry.pool,
        model=entry.id,
        state="loading",
        device=device,
        pid=os.getpid(),
        host=socket.gethostname(),
        started_at=time.time(),
    )
    moved = store.adopt(name)
    for render in (*moved.requeued, *moved.failed):
        event(log, "adopted", logging.WARNING, render=render, worker=name)
    report(store, log)
    # Its file must be touched while Redis is away, and the last beat must not hold up the exit.
    brisk = open_store(settings, patience_s=HEART_PATIENCE_S)
    return Heart(brisk, status, settings.liveness_file)


def _load(
    settings: Settings,
    entry: ModelEntry,
    device: str,
    heart: Heart,
    loras: Mapping[str, LoraEntry],
) -> Renderer:
    began = time.monotonic()  # the imports are seconds, too
    from worker.loading.load import load

    renderer = load(entry, settings, device, heart.step, heart.placed, loras)
    heart.loaded(time.monotonic() - began)
    return renderer


def _start_leases(settings: Settings, name: str) -> Leases:
    return Leases(
        {
            "redis_url": settings.redis_address,
            "store": StoreConfig.of(settings, ticket_template()).as_dict(),
            "slot": name,
            "lease_s": settings.lease_s,
            "max_render_s": settings.max_render_s,
            "log": [settings.log_level, settings.log_format],
        }
    )


def _work(
    settings: Settings,
    entry: ModelEntry,
    name: str,
    store: JobStore,
    results: ResultStore,
    metrics: WorkerMetrics,
    renderer: Renderer,
    heart: Heart,
    leases: Leases,
    ending: Ending,
    stack: ExitStack,
    traces: Traces,
) -> None:
    def describe(claim: Claim, picture: Picture) -> PictureInfo:
        return PictureInfo.of(
            claim.spec,
            pure(claim.fingerprint),
            random_weights=entry.random_weights,
            profile=picture.profile,
        )

    pantry = Pantry(Inputs(results))
    keep = Keep(store, results, metrics, describe)
    stack.callback(keep.close)  # before the leases: what is being stored is stored
    seat = Seat(name, entry.pool, settings.lease_s, settings.drain_s)
    health = Health.of(settings, renderer.memory())
    gallery = Gallery(open_store(settings, patience_s=HEART_PATIENCE_S).preview)
    bench = Bench(
        seat, store, renderer, leases, keep, heart, metrics, health, ending.leave, pantry, gallery,
        traces,
    )  # fmt: skip
    if settings.watchdog_s:
        watchdog = _watch(bench, store, seat, settings.watchdog_s, keep, leases)
        stack.callback(watchdog.stop)
    heart.say("ready")
    event(log, "ready", worker=name, model=entry.id, pool=entry.pool)
    code = _consume(settings, bench, seat)
    ending.code = ending.code or code
    event(log, "stopped", worker=name, exit_code=ending.code)


def _watch(
    bench: Bench, store: JobStore, seat: Seat, limit_s: float, keep: Keep, leases: Leases
) -> Watchdog:
    def bite() -> None:
        """The main thread may hang, so this process ends here and now; the keeper gives back."""
        bench.drain()
        keeping = Thread(target=keep.close, daemon=True)  # what is drawn is stored first
        keeping.start()
        keeping.join(PATIENCE_S)
        leases.say_goodbye("deaf")
        os._exit(exits.DEAF)

    watchdog = Watchdog(bench, store, seat.pool, limit_s, bite)
    watchdog.start()
    return watchdog


def _consume(settings: Settings, bench: Bench, seat: Seat) -> int:
    """Celery's worker with the solo pool, in this thread, until a signal ends it."""
    app = make_app(settings)

    @app.task(name=TASK, shared=False)
    def take() -> None:
        bench.take()

    def on_shutdown(**_: Any) -> None:
        bench.drain()

    # Celery warns root of pickle, which this worker does not accept.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_keep_our_logging)
    signals.worker_shutting_down.connect(on_shutdown)
    worker = app.Worker(
        hostname=seat.name,
        queues=[queue_name(seat.pool)],
        pool="solo",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _keep_our_logging(**_: Any) -> None:
    """A connected receiver stops Celery from configuring logging."""


if __name__ == "__main__":
    sys.exit(serve(load_settings()))
