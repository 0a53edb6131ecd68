"""A model's files into the page cache before it is loaded, unless the settings say not to."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from shared.logs import event
from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading.parts import paths_of
from worker.loading.prefetch import prefetch_cold
from worker.loading.steps import Report, step

log = logging.getLogger("farm.worker")


def warm(folder: Path, entry: ModelEntry, settings: Settings, report: Report) -> None:
    """Tells `prefetch`."""
    if not settings.prefetch:
        report("prefetch", "skipped")
        return
    with step("prefetch", report), suppress(OSError):  # loading meets the same, and says it
        if read := prefetch_cold(folder, paths_of(entry, folder)):
            event(log, "prefetched", bytes=read.bytes, seconds=round(read.seconds, 2))
