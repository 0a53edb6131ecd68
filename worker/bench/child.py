"""The process of one run: it is told on stdin what to do, and leaves JSON lines in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.errors import FarmError
from worker.bench.plan import Run


def rows_of(run: Run) -> Iterator[dict[str, Any]]:
    """A variant that cannot run here is a row that says why."""
    try:
        yield from _rows_of(run)
    except FarmError as error:
        yield run.title | {"error": str(error)}
    except Exception as error:  # of torch, a compiler, a kernel: this run ends, the next begins
        yield run.title | {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def _rows_of(run: Run) -> Iterator[dict[str, Any]]:
    if run.task == "ceilings":
        from worker.bench.ceilings import ceiling_rows

        yield from ceiling_rows(run)
        return
    from worker.bench.measure import make_weights, row_of

    if run.task == "weights":
        make_weights(run)
    else:
        yield run.title | {"aim": run.aim} | row_of(run)


def main() -> None:
    run, into = Run.decode(sys.stdin.buffer.read()), Path(sys.argv[1])
    with into.open("w", encoding="utf-8") as file:
        for row in rows_of(run):
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
