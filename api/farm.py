"""What the routes stand on: one `Farm` per application, made by `create_app`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from ulid import ULID

from api.audit import Audit
from api.drain import Drain
from api.fetching import Fetcher
from api.keyring import KeyRing
from api.links import links
from api.owner import Owner
from api.promises import Promises
from api.watch import Watch
from shared.catalog import Catalog
from shared.errors import JobGone, JobNotFound, Unavailable
from shared.jobs import Job
from shared.links import Links
from shared.metrics import ApiMetrics
from shared.results.port import ResultStore
from shared.settings import Settings
from shared.signing import Signer
from shared.ssrf import Hosts
from shared.store.port import JobStore
from shared.store.values import StoreFault, WorkerStatus

T = TypeVar("T")

JOB_ID = re.compile(r"job_[0-7][0-9A-HJKMNP-TV-Z]{25}")


@dataclass(slots=True, frozen=True)
class Farm:
    settings: Settings
    store: JobStore
    results: ResultStore
    catalog: Catalog
    hosts: Hosts  # whom webhooks may reach besides the public internet
    fetcher: Fetcher
    keys: KeyRing
    audit: Audit
    signer: Signer
    metrics: ApiMetrics
    metrics_page: Callable[[], bytes]
    promises: Promises
    version: str
    storage_answers: Callable[[], bool]
    store_faults: Callable[[], tuple[StoreFault, ...]]
    drain: Drain
    workers: Callable[[], Sequence[WorkerStatus]]  # as of a second ago at most
    watch: Watch

    def links(self, request: Request) -> Links:
        return links(request, self.settings, self.signer)

    def find(self, request: Request, job_id: str, owner: Owner | None) -> Job:
        """The job, for its owner or an admin; None where a signature spoke for the caller.

        Raises JobNotFound, also for another's job, JobGone and StoreUnavailable.
        """
        try:
            job = self.store.get(job_id)
        except JobNotFound:
            if _age_s(job_id) > self.settings.job_retention_s:
                raise JobGone from None
            raise
        if owner is not None and not owner.may_see(job):
            raise JobNotFound
        request.state.job_id = job.id
        return job


def _age_s(job_id: str) -> float:
    """How long ago the id was made: a ULID tells. What is no id of ours is 0 s old."""
    if not JOB_ID.fullmatch(job_id):
        return 0.0
    return time.time() - ULID.from_str(job_id.removeprefix("job_")).timestamp


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
