"""What operators and probes ask: health, status, metrics, error codes."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.auth import CallerKey
from api.codes import table
from api.errors import CHALLENGE, Problem, responses
from api.farm import Farm, answers, farm_of
from api.listings import Alive, Errors, Readiness, Standing
from api.readiness import reason, without_folders
from api.routes import get
from api.routes.models import ready_workers
from shared.errors import StoreUnavailable
from shared.models import ModelEntry
from shared.store.values import WorkerStatus

router = APIRouter(tags=["operations"])
_WORKER = {"state", "steps", "load_s", "error", "note", "last_death"}


@get(
    router,
    "/healthz",
    summary="The process lives",
    responses={200: {"model": Alive}, **responses()},
)
def healthz() -> dict[str, bool]:
    return {"ok": True}


@get(
    router,
    "/readyz",
    summary="Jobs can be taken",
    responses={
        **responses("model_not_found"),
        200: {"model": Readiness},
        503: {"model": Readiness, "description": "Not now; the same body"},
    },
)
def readyz(
    request: Request,
    model: Annotated[str | None, Query(description="Also wants a ready worker of it")] = None,
) -> JSONResponse:
    farm = farm_of(request)
    entry = farm.catalog.find(model) if model else None
    checks = {"redis": answers(farm.store.ping), "storage": farm.storage_answers()}
    ready = checks["redis"]
    if entry and ready:
        checks["model"] = ready = ready_workers(entry, farm.store.workers()) > 0
    draining = farm.drain.begun
    ready = ready and not draining
    return JSONResponse(
        {"ready": ready, "draining": draining, "checks": checks}, 200 if ready else 503
    )


@get(
    router,
    "/status",
    summary="How far each model has come",
    responses={200: {"model": Standing}, **responses()},
)
def status(request: Request) -> dict[str, Any]:
    farm = farm_of(request)
    try:
        workers = farm.store.workers()
        warnings = [fault.model_dump() for fault in farm.store_faults()]
    except StoreUnavailable:  # its own words may name hosts; the class's do not
        silent = str(StoreUnavailable())
        return _standing(farm, False, silent, [], [])
    shown = [_status(entry, workers) for entry in farm.catalog.entries.values()]
    ready = any(model["ready"] for model in shown)
    why = None if ready else reason(workers)
    return _standing(farm, ready, why, warnings, shown)


@get(
    router,
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **responses("missing_api_key", "invalid_api_key"),
    },
)
def metrics(request: Request, key: CallerKey) -> Response:
    farm = farm_of(request)
    if farm.settings.metrics_token:
        _check_token(key, farm.settings.metrics_token.get_secret_value())
    return Response(farm.metrics_page(), media_type=CONTENT_TYPE_LATEST)


@get(
    router,
    "/errors",
    summary="Every error code and what it means",
    responses={200: {"model": Errors}, **responses()},
)
def errors() -> dict[str, Any]:
    return {"object": "list", "data": table()}


def _check_token(key: str | None, token: str) -> None:
    if not hmac.compare_digest((key or "").encode(), token.encode()):
        code = "invalid_api_key" if key else "missing_api_key"
        raise Problem(401, code, "send the metrics token as a Bearer token", headers=CHALLENGE)


def _standing(
    farm: Farm,
    ready: bool,
    why: str | None,
    warnings: list[dict[str, Any]],
    models: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "ready": ready and not farm.drain.begun,
        "reason": "this API process is leaving" if farm.drain.begun else why,
        "warnings": warnings,
        "version": farm.version,
        "models": models,
    }


def _status(entry: ModelEntry, workers: Sequence[WorkerStatus]) -> dict[str, Any]:
    mine = [worker for worker in workers if worker.pool == entry.pool]
    return {
        "id": entry.id,
        "ready": ready_workers(entry, workers) > 0,
        "workers": [_open(worker) for worker in mine],
    }


def _open(worker: WorkerStatus) -> dict[str, Any]:
    """Of a worker what anybody may see."""
    error = worker.error and without_folders(worker.error)
    return worker.model_dump(mode="json", include=_WORKER) | {"error": error}
