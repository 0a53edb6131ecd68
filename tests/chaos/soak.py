"""`python -m tests.chaos.soak --renders 2000`: one worker; its memory and open files must stay flat."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.farm import ChaosFarm
from tests.waiting import wait_until

BATCH = 10
SIZES = ("64x64", "128x64", "64x128", "96x96")
WARM_UP = 0.2  # of all renders: allocators and caches reach their size
MOST_GROWTH_MIB = 8.0


@dataclass(slots=True, frozen=True)
class Sample:
    renders: int
    rss_mib: float
    files: int
    threads: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.soak", description=__doc__)
    parser.add_argument("--renders", type=int, default=2000)
    renders = parser.parse_args().renders
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    with ChaosFarm(folder / "farm", workers=1, apis=1, chores=1) as farm:
        parts = {
            "worker": farm.part("worker-0"),
            "keeper": farm.keeper("worker-0"),
            "api": farm.part("api-0"),
            "chores": farm.part("chores-0"),
        }
        started = time.monotonic()
        samples: dict[str, list[Sample]] = {name: [] for name in parts}
        for done in _rendered(farm, renders):
            for name, process in parts.items():
                samples[name].append(_sample(process, done))
        took_s = time.monotonic() - started
    print(f"{renders} renders in {took_s:.0f} s")
    grown = [name for name, seen in samples.items() if not _told(name, seen)]
    shutil.rmtree(folder)
    return 1 if grown else 0


def _rendered(farm: ChaosFarm, renders: int) -> Iterator[int]:
    """Orders in batches; yields how many renders are done, about fifty times."""
    for done in range(0, renders, BATCH):
        order = {"prompt": f"soak {done}", "seed": done, "n": BATCH, "steps": 2}
        job = farm.submit(**order, size=SIZES[done // BATCH % len(SIZES)])
        wait_until(lambda job=job: farm.job(job["id"])["done"], 120.0)
        if done % (max(renders // 50, 1) // BATCH * BATCH or BATCH) == 0:
            yield done + BATCH


def _sample(process: psutil.Process, renders: int) -> Sample:
    with process.oneshot():
        rss_mib = process.memory_info().rss / 2**20
        return Sample(renders, rss_mib, process.num_fds(), process.num_threads())


def _told(name: str, samples: list[Sample]) -> bool:
    """Prints the line of one process; False where it grew."""
    warm = next(s for s in samples if s.renders >= WARM_UP * samples[-1].renders)
    last = samples[-1]
    growth_mib = last.rss_mib - warm.rss_mib
    more_files = last.files - warm.files
    print(
        f"{name:<8} RSS {warm.rss_mib:7.1f} -> {last.rss_mib:7.1f} MiB ({growth_mib:+.1f}), "
        f"files {warm.files} -> {last.files}, threads {warm.threads} -> {last.threads} "
        f"(renders {warm.renders} -> {last.renders})"
    )
    return growth_mib <= MOST_GROWTH_MIB and more_files <= 2


if __name__ == "__main__":
    sys.exit(main())
