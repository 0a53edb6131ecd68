"""The workers, for admins: what each does, and the orders that it can be given."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from api.auth import Admin
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.listings import Gone, Workers, WorkerView
from api.routes import get
from shared.store.values import WorkerStatus
from shared.views import rfc3339

router = APIRouter(tags=["operations"])
_REFUSALS = ("missing_api_key", "invalid_api_key", "admin_only", "store_unavailable")


@get(
    router,
    "/workers",
    summary="List the workers",
    responses={200: {"model": Workers}, **responses(*_REFUSALS)},
)
def workers(request: Request, admin: Admin) -> dict[str, Any]:
    farm = farm_of(request)
    return {"object": "list", "data": [_shown(farm, worker) for worker in farm.store.workers()]}


@router.post(
    "/workers/{name:path}/drain",
    summary="Let a worker finish what it holds and take nothing more, until it is released",
    responses={200: {"model": WorkerView}, **responses(*_REFUSALS, "worker_not_found")},
)
def drain(request: Request, admin: Admin, name: str) -> dict[str, Any]:
    farm = farm_of(request)
    found = _find(farm, name)
    if found is None:
        raise _unknown()
    farm.store.drain(name)
    farm.audit.note(request, admin, "worker.drained", name)
    return _shown(farm, found)


@router.post(
    "/workers/{name:path}/release",
    summary="Lift the order to drain, and the quarantine; nothing happens where there is neither",
    responses={200: {"model": WorkerView | Gone}, **responses(*_REFUSALS, "worker_not_found")},
)
def release(request: Request, admin: Admin, name: str) -> dict[str, Any]:
    """A worker that drained and left is released too, before it is started again."""
    farm = farm_of(request)
    found, lifted = _find(farm, name), farm.store.lift(name)
    if found is None and not lifted:
        raise _unknown()
    farm.audit.note(request, admin, "worker.released", name)
    return _shown(farm, found) if found else {"id": name}


def _find(farm: Farm, name: str) -> WorkerStatus | None:
    return next((worker for worker in farm.store.workers() if worker.name == name), None)


def _unknown() -> Problem:
    return Problem(404, "worker_not_found", "no worker of this name was heard of within an hour")


def _shown(farm: Farm, worker: WorkerStatus) -> dict[str, Any]:
    entry, death = farm.catalog.entries.get(worker.model), worker.last_death
    return {
        "id": worker.name,
        "object": "worker",
        "model": worker.model,
        "state": worker.state,
        "note": worker.note,
        "steps": [step.model_dump() for step in worker.steps],
        "load_s": worker.load_s,
        "error": worker.error,
        "engine": entry and entry.engine,
        "placement": worker.placement or (entry and entry.placement),
        "device": worker.device,
        "gpu": worker.gpu and worker.gpu.model_dump(),
        "render": worker.render,
        "holding": worker.holding,
        "last_seen_at": rfc3339(worker.last_seen_at),
        "last_death": death and {"cause": death.cause, "at": rfc3339(death.at)},
    }
