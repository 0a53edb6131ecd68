"""`python -m tests.chaos --seed 1 --minutes 10`: the long run; exit code 1 if anything was wrong."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.plan import COMMON, deck, draw
from tests.chaos.run import run
from tests.servers.clocks import can_be_set
from tests.servers.engines import ENGINES, engine_binary
from tests.servers.rgw import PROGRAMS, Rgw

LONG_MIN = 5.0  # from here on Redis is frozen for 30 s at a time


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--local", action="store_true", help="keep pictures in a folder, not in S3")
    parser.add_argument(
        "--common", action="store_true", help="only what Celery can be hurt with too"
    )
    given = parser.parse_args()
    s3 = not given.local and all(map(shutil.which, PROGRAMS))
    plan = draw(
        given.seed, given.minutes * 60, COMMON if given.common else deck(s3=s3, clocks=can_be_set())
    )
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with ExitStack() as stack:
        rgw = None
        if s3:
            (folder / "rgw").mkdir()
            rgw = stack.enter_context(Rgw(folder / "rgw"))
        report = run(
            plan, folder / "farm", workers=given.workers, rgw=rgw,
            binary=engine_binary(given.engine), long=given.minutes >= LONG_MIN, say=print,
        )  # fmt: skip
    print(report.table())
    if report.wrong or report.unfinished:
        print(f"the logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
