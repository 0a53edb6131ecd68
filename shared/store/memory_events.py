"""The job store in one process: what is told of a job."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from threading import RLock

from shared.events import PREVIEW, Event
from shared.jobs import OPEN
from shared.store.history import Heard
from shared.store.ledger import JobEntry, Ledger
from shared.store.values import Pulse


class MemoryEvents:
    """Part of MemoryJobStore; see shared/store/port.py."""

    _lock: RLock
    _ledger: Ledger

    def events(self, job_id: str, after: str | None) -> list[Event] | None:
        with self._lock:
            return self._ledger.history.later(job_id, after)

    def pulse(self, job_ids: Sequence[str]) -> dict[str, Pulse]:
        with self._lock:
            return {job: self._pulse(job) for job in job_ids if job in self._ledger.jobs}

    def _pulse(self, job_id: str) -> Pulse:
        images = self._ledger.snapshot(job_id).images
        ranks = [image.position for image in images if image.position is not None]
        unfinished = sum(image.status in OPEN for image in images)
        told = len(self._ledger.history.all(job_id))
        return Pulse(told, unfinished, min(ranks, default=None))

    def preview(self, render_id: str, token: str, number: int, picture: bytes) -> None:
        def message(job: JobEntry, index: int) -> str | None:
            if number >= job.job.input.get("partial_images", 0):
                return None
            data = base64.b64encode(picture).decode()
            about = {"index": index, "partial_image_index": number, "b64_json": data}
            return json.dumps({"type": PREVIEW, **about})

        with self._lock:
            entry = self._ledger.renders.get(render_id)
            if entry and self._ledger.holds(entry, token):
                self._ledger.tell(entry, message)

    def listen(self, heard: Heard) -> None:
        """Call `heard` with everything that is said of any job, in the thread that says it."""
        with self._lock:
            self._ledger.history.listeners.add(heard)

    def unlisten(self, heard: Heard) -> None:
        with self._lock:
            self._ledger.history.listeners.discard(heard)
