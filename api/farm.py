"""What the routes stand on: one `Farm` per application, made by `create_app`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from prometheus_client import CollectorRegistry

from api.auth import Keys, Owner
from api.drain import Drain
from api.links import Links, links
from api.signing import Signer
from shared.errors import JobNotFound, Unavailable
from shared.jobs import Job
from shared.metrics import ApiMetrics
from shared.models import Catalog
from shared.results.port import ResultStore
from shared.settings import Settings
from shared.store.port import JobStore, StoreFault

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Farm:
    settings: Settings
    store: JobStore
    results: ResultStore
    catalog: Catalog
    keys: Keys
    signer: Signer
    registry: CollectorRegistry
    metrics: ApiMetrics
    version: str
    storage_answers: Callable[[], bool]
    store_faults: Callable[[], tuple[StoreFault, ...]]
    drain: Drain

    def links(self, request: Request) -> Links:
        return links(request, self.settings, self.signer)

    def find(self, request: Request, job_id: str, owner: Owner | None) -> Job:
        """The job, for its owner or an admin; None where a signature spoke for the caller.

        Raises JobNotFound, also for another's job, and StoreUnavailable.
        """
        job = self.store.get(job_id)
        if owner is not None and not owner.may_see(job):
            raise JobNotFound
        request.state.job_id = job.id
        return job


def answers(check: Callable[[], None]) -> bool:
    try:
        check()
    except Unavailable:
        return False
    return True


def remembered(ask: Callable[[], T], seconds: float) -> Callable[[], T]:
    """The same question, really asked once in so many seconds: probes come often and need no key."""
    kept: tuple[T, float] | None = None

    def remember() -> T:
        nonlocal kept
        if kept is None or time.monotonic() - kept[1] > seconds:
            kept = ask(), time.monotonic()
        return kept[0]

    return remember


def farm_of(request: Request) -> Farm:
    farm: Farm = request.app.state.farm
    return farm
