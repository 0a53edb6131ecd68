"""The models of the farm: what each can do and who serves it now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request

from api.auth import Caller
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.listings import Models, ModelView
from api.routes import get
from shared.errors import InvalidOrder
from shared.models import ModelEntry
from shared.store.values import WorkerStatus

router = APIRouter(tags=["models"])
_DEFAULTS = frozenset(
    {"steps", "guidance_scale", "shift", "width", "height", "skip_layer_guidance", "preset"}
)
_LORA = {"name", "title", "sha256", "trigger"}  # where its file lies is nobody's business
_LIMITS = frozenset({"max_steps", "min_side_px", "max_side_px", "max_pixels"})


@get(
    router,
    "/models",
    summary="List the models",
    responses={
        200: {"model": Models},
        **responses("missing_api_key", "invalid_api_key", "scope_missing", "store_unavailable"),
    },
)
def models(request: Request, owner: Caller) -> dict[str, Any]:
    farm = farm_of(request)
    workers = farm.store.workers()
    data = [_model(farm, entry, workers) for entry in farm.catalog.entries.values()]
    if farm.settings.list_aliases:
        data += [model | {"id": alias} for model in data for alias in model["aliases"]]
    return {"object": "list", "data": data}


@get(
    router,
    "/models/{model_id:path}",
    summary="One model, by id or alias",
    responses={
        200: {"model": ModelView},
        **responses(
            "missing_api_key",
            "invalid_api_key",
            "scope_missing",
            "model_not_found",
            "store_unavailable",
        ),
    },
)
def model(request: Request, owner: Caller, model_id: str) -> dict[str, Any]:
    farm = farm_of(request)
    try:
        entry = farm.catalog.find(model_id)
    except InvalidOrder as error:
        raise Problem(404, error.code, str(error), "model") from None
    return _model(farm, entry, farm.store.workers())


def ready_workers(entry: ModelEntry, workers: Sequence[WorkerStatus]) -> int:
    """How many serve exactly this entry; another version of it is another pool."""
    return sum(w.pool == entry.pool and w.state in ("ready", "busy") for w in workers)


def _model(farm: Farm, entry: ModelEntry, workers: Sequence[WorkerStatus]) -> dict[str, Any]:
    return {
        "id": entry.id,
        "object": "model",
        "created": 0,  # OpenAI clients want the key; an entry of a file has no birthday
        "owned_by": "renderfarm",
        "title": entry.title,
        "default": entry is farm.catalog.default,
        "aliases": entry.aliases,
        "engine": entry.engine,
        "precision": entry.precision,
        "t5": entry.t5,
        "placement": entry.placement,
        "defaults": entry.model_dump(include=set(_DEFAULTS)),
        "limits": entry.model_dump(include=set(_LIMITS)) | {"max_n": farm.settings.max_n},
        "skip_layers": entry.skip_layers,
        "loras": [lora.model_dump(include=_LORA) for lora in farm.catalog.loras_of(entry)],
        "workers_ready": ready_workers(entry, workers),
        "random_weights": entry.random_weights,
    }
