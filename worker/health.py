"""Whether a worker should go on: failures in a row, and memory that creeps."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.settings import Settings
from shared.store.values import Gpu

# Failures that a sick device or process can cause, and some orders too; others are never its fault.
SYMPTOMS = frozenset({"render_error", "internal_error"})


@dataclass(slots=True)
class Health:
    """What one worker's renders tell of it. A limit of 0 is none."""

    max_failures: int = 0
    max_rss_mb: int = 0
    max_growth_mb: int = 0  # of the device memory that is held between renders
    ready_mb: int | None = None
    failures: int = 0

    @staticmethod
    def of(settings: Settings, gpu: Gpu | None) -> Health:
        return Health(
            settings.unwell_failures,
            settings.max_rss_mb,
            settings.max_device_memory_growth_mb,
            gpu.memory_used_mb if gpu else None,
        )

    def rendered(self) -> None:
        self.failures = 0

    def failed(self, code: str) -> None:
        self.failures += code in SYMPTOMS

    def doubt(self) -> str | None:
        """Why this worker should prove that it can render; None while nothing speaks against it."""
        if self.max_failures and self.failures >= self.max_failures:
            return f"{self.failures} renders failed in a row"
        return None

    def complaint(self, rss_mb: int, gpu: Gpu | None) -> str | None:
        """Why this worker should leave, in words; None while it is well."""
        if self.max_rss_mb and rss_mb > self.max_rss_mb:
            return f"its memory grew to {rss_mb} MiB"
        grown_mb = gpu.memory_used_mb - self.ready_mb if gpu and self.ready_mb is not None else 0
        if self.max_growth_mb and grown_mb > self.max_growth_mb:
            return f"its device memory grew by {grown_mb} MiB"
        return None


def rss_mb() -> int:
    """Resident memory of this process, MiB; 0 where the system does not tell (not Linux)."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 2**20
    return 0
