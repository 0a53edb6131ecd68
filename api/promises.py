"""How good the ETAs are: the first that a client saw of a job, against when the job was done."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

MOST = 1000  # jobs that are remembered; of more, those that were promised first are forgotten
LEAST_S = 1.0  # of a shorter time the fraction means nothing


class Promises:
    """A sample: a job counts where the same process of the API tells its ETA and, later, its end."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` gets the error as a fraction of the time that was left at the promise."""
        self._observe = observe
        self._told: OrderedDict[str, tuple[float, float]] = OrderedDict()  # at, seconds
        self._lock = Lock()

    def told(self, job_id: str, eta_s: float | None, now: float) -> None:
        if eta_s is None:
            return
        with self._lock:
            self._told.setdefault(job_id, (now, eta_s))
            if len(self._told) > MOST:
                self._told.popitem(last=False)

    def kept(self, job_id: str, finished_at: float) -> None:
        with self._lock:
            told = self._told.pop(job_id, None)
        if told:
            at, eta_s = told
            self._observe(abs(finished_at - at - eta_s) / max(finished_at - at, LEAST_S))
