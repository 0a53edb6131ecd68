"""Whether somebody can draw now, and if not, why: one sentence for operators and clients."""

from __future__ import annotations

import re
from collections.abc import Sequence

from shared.store.values import WorkerStatus

_FOLDERS = re.compile(r"""(?<![\w:/.])/(?:[^\s/'"]+/)*(?=[^\s/'"])""")


def without_folders(told: str) -> str:
    """What a worker says, for everybody: of a path only the last name. Admins ask `/workers`."""
    return _FOLDERS.sub("", told)


def reason(workers: Sequence[WorkerStatus]) -> str:
    """Why none of these workers is ready: the worst news first."""
    for worker in workers:
        if worker.error:
            return f"a worker of {worker.model} failed: {without_folders(worker.error)}"
    for worker in workers:
        if worker.state == "loading":
            step = next((s.name for s in worker.steps if s.status == "running"), "start")
            return f"a worker of {worker.model} is loading ({step})"
    for worker in workers:
        if worker.state in ("quarantined", "draining"):
            note = f": {worker.note}" if worker.note else ""
            return f"a worker of {worker.model} is {worker.state}{note}"
    return "no worker is running"
