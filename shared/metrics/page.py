"""The page that Prometheus reads: of one process, or of several that answer on one port."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from shared.logs import event
from shared.settings import shared_metrics_dir


class Labelled(Collector):
    """Everything in a registry, with labels that all of it has in common."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = dict(labels)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**self._labels, **sample.labels})
                for sample in metric.samples
            ]
            yield metric


def page(own: CollectorRegistry, farm_wide: CollectorRegistry) -> bytes:
    """`own` is added up over the processes that share a port, `farm_wide` is the same in each.

    They share where PROMETHEUS_MULTIPROC_DIR names a folder, which must be there before they start
    and should be empty then.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody reads
    folder = shared_metrics_dir()
    if folder:
        forget_the_dead(folder)
        own = CollectorRegistry()
        MultiProcessCollector(own, str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(farm_wide) + generate_latest(own)


def forget_the_dead(folder: Path) -> None:
    """What a process that is gone counted stays; what it had open, such as clients, went with it."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another process came first
                mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            pass  # it lives, as somebody else


def open_page(
    host: str, port: int | None, registry: CollectorRegistry, log: logging.Logger
) -> None:
    """Answer every GET on this port with the page, from a thread that ends with the process.

    A port that somebody else has costs the page and nothing more. None: no page is wanted.
    """
    if port is None:
        return
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        event(log, "no_metrics", logging.WARNING, port=port, reason=str(error))
