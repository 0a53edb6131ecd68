"""A model's files into the page cache before it is loaded, unless the settings say not to."""

from __future__ import annotations

import logging
from pathlib import Path

from shared.logs import event
from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading.parts import paths_of
from worker.loading.prefetch import prefetch_cold
from worker.loading.steps import Report

log = logging.getLogger("farm.worker")


def warm(folder: Path, entry: ModelEntry, settings: Settings, report: Report) -> None:
    if not settings.prefetch:
        return
    report("load", "running")
    try:
        read = prefetch_cold(folder, paths_of(entry, folder))
    except OSError:
        return  # loading meets the same, and says it of the model
    if read:
        event(log, "prefetched", bytes=read.bytes, seconds=round(read.seconds, 2))
