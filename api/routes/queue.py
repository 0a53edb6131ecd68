"""How much waits, and how fast it goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from api.auth import Caller, Owner
from api.errors import responses
from api.farm import farm_of
from api.routes import get
from shared.answers import CrewView, MineView, ModelQueueView, OwnerQueueView, QueueView
from shared.eta import Crew, wait_s
from shared.models import ModelEntry
from shared.store.queries import Backlog, PoolLoad
from shared.store.values import WorkerStatus

router = APIRouter(tags=["models"])


@get(
    router,
    "/queue",
    summary="What waits for each model, and what of it is yours",
    response_model=QueueView,
    responses=responses("missing_api_key", "invalid_api_key", "scope_missing", "store_unavailable"),
)
def queue(request: Request, owner: Caller) -> Any:
    farm = farm_of(request)
    entries, workers = list(farm.catalog.entries.values()), farm.workers()
    backlog = farm.store.backlog([e.pool for e in entries], None if owner.admin else owner.name)
    loads = zip(entries, backlog.pools, strict=True)
    return QueueView(
        models=[_model(entry, load, workers, time.time()) for entry, load in loads],
        mine=_mine(owner, backlog),
        owners=_owners(backlog) if owner.admin else None,
        poison=len(farm.store.poison()) if owner.admin else None,
    )


def _model(
    entry: ModelEntry, load: PoolLoad, workers: Sequence[WorkerStatus], now: float
) -> ModelQueueView:
    states = [worker.state for worker in workers if worker.pool == entry.pool]
    oldest_s = None if load.oldest_at is None else round(max(0.0, now - load.oldest_at), 1)
    return ModelQueueView(
        model=entry.id,
        queued=load.pending + load.delayed,
        running=load.running,
        storing=load.storing,
        workers=CrewView(
            ready=states.count("ready"), busy=states.count("busy"), loading=states.count("loading")
        ),
        oldest_queued_s=oldest_s,
        backlog_gpu_s=round(load.work_s * (load.rate or 1.0), 1),
        eta_s=_eta_s(load, Crew.of(entry.pool, workers)),
    )


def _eta_s(load: PoolLoad, crew: Crew) -> float | None:
    """Until the last of what waits is started, as a job's own ETA is reckoned."""
    if load.rate is None or load.delayed:
        return None
    mean_s = load.work_s / load.pending * load.rate if load.pending else 0.0
    seconds = wait_s(max(0, load.pending - 1), mean_s, crew)
    return None if seconds is None else round(seconds, 1)


def _mine(owner: Owner, backlog: Backlog) -> MineView:
    mine = [load for load in backlog.owners if load.owner == owner.name]
    return MineView(
        queued=sum(load.queued for load in mine),
        running=sum(load.running for load in mine),
        max_queued=owner.limits.max_queued or None,
    )


def _owners(backlog: Backlog) -> list[OwnerQueueView]:
    return [
        OwnerQueueView(owner=load.owner, queued=load.queued, running=load.running)
        for load in backlog.owners
    ]
