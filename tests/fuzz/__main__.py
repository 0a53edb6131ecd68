"""`python -m tests.fuzz --cases 5000 --minutes 10`: every operation in turn, other cases each time."""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

from deploy.embedded import EmbeddedRedis
from tests.fuzz.cases import fuzz
from tests.fuzz.ground import Ground

ROUND = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=30.0, help="stop then at the latest")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder), appendfsync="everysec")
        server.start()
        try:
            run(server.url, options.cases, time.monotonic() + options.minutes * 60)
        finally:
            server.stop()


def run(redis_url: str, cases: int, stop_at: float) -> None:
    """Rounds over all operations until so many cases were sent. Raises the first fault."""
    ground, sent, started = Ground(redis_url), 0, time.monotonic()
    while sent < cases and time.monotonic() < stop_at:
        for operation in ground.operations():
            sent += fuzz(ground, operation, ROUND, fixed=False)
        print(f"{sent} cases in {time.monotonic() - started:.0f} s, no fault", flush=True)
    ground.close()


if __name__ == "__main__":
    main()
