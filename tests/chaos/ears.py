"""A receiver of how every job ends, and what it must have heard after a run.

A message may come twice, since its sender may die before it notes that it came; but one event has
one id and one body, each job ends once, and nobody is left untold.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.chaos.load import Load
from tests.receiver import Receiver
from tests.waiting import wait_until


class Ears:
    """Reads what `receiver` got."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    @property
    def order(self) -> dict[str, Any]:
        """What each order says to be heard of."""
        return {"webhook": {"url": self._receiver.url}}

    def settle(self, load: Load, limit_s: float) -> None:
        """Until every accepted job was heard of, or for so long: the verdict tells who is missing."""
        try:
            wait_until(lambda: not list(self._untold(load)), limit_s)
        except AssertionError:
            return

    def faults(self, load: Load) -> Iterator[str]:
        bodies: dict[str, set[bytes]] = defaultdict(set)
        ids: dict[str, set[str]] = defaultdict(set)
        for headers, body in tuple(self._receiver.got):
            bodies[headers["webhook-id"]].add(body)
            ids[json.loads(body)["data"]["id"]].add(headers["webhook-id"])
        yield from (f"{i} was sent with {len(b)} bodies" for i, b in bodies.items() if len(b) > 1)
        yield from (f"{job} ended {len(i)} times" for job, i in ids.items() if len(i) > 1)
        yield from self._untold(load)

    def _untold(self, load: Load) -> Iterator[str]:
        heard = {}
        for _, body in tuple(self._receiver.got):
            message = json.loads(body)
            heard[message["data"]["id"]] = message["type"]
        for job in load.accepted.values():
            if job.final and heard.get(job.job_id) != f"job.{job.final['status']}":
                yield f"{job.job_id} ended {job.final['status']}, told: {heard.get(job.job_id)}"
