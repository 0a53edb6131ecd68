"""The worker's composition root: one process, one device, one pipeline, one render at a time."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import warnings
from contextlib import ExitStack
from typing import Any

from celery import signals
from celery.exceptions import SecurityWarning
from prometheus_client import CollectorRegistry, start_http_server

from shared.errors import FarmError
from shared.images import PictureInfo
from shared.keys import queue_name
from shared.logs import event, setup
from shared.metrics import WorkerMetrics
from shared.models import ModelEntry, load_catalog
from shared.results import open_results
from shared.settings import Settings, load_settings
from shared.store import open_store
from shared.store.checks import report
from shared.store.port import Claim, JobStore, WorkerStatus
from shared.store.redis_store import StoreConfig
from shared.tickets import TASK, make_app, ticket_template
from worker.engines.port import Picture, Renderer
from worker.heart import Heart
from worker.keep import Keep
from worker.leases import Leases
from worker.render import Bench, Seat

log = logging.getLogger("farm.worker")
PATIENCE_S = 60.0  # a worker waits so long for Redis to come back before it lets go of a render


def serve(settings: Settings, model: str | None = None) -> int:
    """Load the model, then answer tickets until SIGTERM or SIGINT; the exit code.

    SIGTERM drains: the running render has `drain_s` to finish, then it is given back; what is being
    stored is stored; the code is 0. 1: the model could not be loaded.
    """
    from worker.loading.load import pick_device

    setup("worker", settings.log_level, settings.log_format)
    signal.signal(signal.SIGTERM, _leave)  # until Celery takes over
    catalog = load_catalog(settings.models_file, settings.default_model)
    entry = catalog.find(model) if model else catalog.default
    device = pick_device(settings.device)
    name = settings.worker_name or f"{socket.gethostname()}-{device.replace(':', '')}"
    store = open_store(settings, patience_s=PATIENCE_S)
    with ExitStack() as stack:
        heart = _start_heart(settings, store, entry, name, device)
        try:
            renderer = _load(settings, entry, device, heart)
        except FarmError as error:
            event(log, "not_loaded", logging.ERROR, model=entry.id, reason=str(error))
            heart.say("failed", str(error))
            heart.stop(leave=False)
            return 1
        except BaseException:
            heart.stop()
            raise
        stack.callback(heart.stop)
        return _work(settings, entry, name, store, renderer, heart, stack)
    raise AssertionError("unreachable")


def _start_heart(
    settings: Settings, store: JobStore, entry: ModelEntry, name: str, device: str
) -> Heart:
    status = WorkerStatus(
        name=name,
        pool=entry.pool,
        model=entry.id,
        state="loading",
        device=device,
        pid=os.getpid(),
        host=socket.gethostname(),
    )
    moved = store.adopt(name)
    for render in (*moved.requeued, *moved.failed):
        event(log, "adopted", logging.WARNING, render=render, worker=name)
    report(store, log)
    heart = Heart(store, status, settings.liveness_file)
    heart.start()
    return heart


def _load(settings: Settings, entry: ModelEntry, device: str, heart: Heart) -> Renderer:
    from worker.loading.load import load

    return load(entry, settings, device, heart.step)


def _work(
    settings: Settings,
    entry: ModelEntry,
    name: str,
    store: JobStore,
    renderer: Renderer,
    heart: Heart,
    stack: ExitStack,
) -> int:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    if settings.worker_metrics_port is not None:
        start_http_server(settings.worker_metrics_port, "127.0.0.1", registry)
    leases = Leases(
        {
            "redis_url": settings.redis_address,
            "store": StoreConfig.of(settings, ticket_template()).as_dict(),
            "lease_s": settings.lease_s,
            "max_render_s": settings.max_render_s,
        }
    )
    stack.callback(leases.close)

    def describe(claim: Claim, picture: Picture) -> PictureInfo:
        return PictureInfo.of(
            claim.spec,
            claim.fingerprint,
            random_weights=entry.random_weights,
            profile=picture.profile,
        )

    keep = Keep(store, open_results(settings), metrics, describe)
    stack.callback(keep.close)  # before the leases: what is being stored is stored
    seat = Seat(name, entry.pool, settings.lease_s, settings.drain_s)
    bench = Bench(seat, store, renderer, leases, keep, heart, metrics)
    heart.say("ready")
    event(log, "ready", worker=name, model=entry.id, pool=entry.pool)
    code = _consume(settings, bench, seat)
    event(log, "stopped", worker=name, exit_code=code)
    return code


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


def _leave(*_: Any) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(serve(load_settings()))
