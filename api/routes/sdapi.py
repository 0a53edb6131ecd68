"""The part of AUTOMATIC1111's API that its clients use, under `/sdapi/v1`."""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from api.auth import CallerKey, Owner, caller
from api.dialects import a1111
from api.dialects.wish import Wish
from api.errors import Fault, Problem, refuse, responses
from api.farm import Farm, farm_of
from api.holding import Held, answered, ordered
from api.inputs import store_image
from api.pictures import drawn
from api.reading import json_body, json_object, read
from api.routes import get
from api.schemas import Limits
from api.shown import seen
from shared import images
from shared.errors import InvalidOrder, JobFinished, JobNotFound
from shared.images import PictureInfo, infotext, parse_infotext, read_info
from shared.jobs import Job, JobImage, RenderState
from shared.models import ModelEntry
from shared.store.values import Submission

router = APIRouter(prefix="/sdapi/v1", tags=["A1111"])
JsonBody = Annotated[bytes, Depends(json_body)]
CHECKPOINT, NEWEST = "sd_model_checkpoint", "a1111_job"  # what is noted of an owner
_ACCESS = ("missing_api_key", "invalid_api_key", "scope_missing", "store_unavailable")
_ORDER = (
    *_ACCESS, "invalid_json", "invalid_value", "missing_field", "invalid_size", "model_not_found",
    "lora_not_found", "unsupported_for_model", "invalid_image", "job_canceled", "job_expired", "body_too_large",
    "unsupported_media_type", "render_error", "model_not_ready", "draining", "queue_full",
    "sync_timeout",
)  # fmt: skip


async def key_or_password(request: Request, key: CallerKey) -> str | None:
    """The key, which these clients send as the password of Basic; blank credentials are none."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if key or scheme.lower() != "basic":
        return (key or "").strip() or None
    try:
        text = base64.b64decode(given.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text.partition(":")[2].strip() or None


async def owner_by_password(
    request: Request, key: Annotated[str | None, Depends(key_or_password)]
) -> Owner:
    return await caller(request, key)


Client = Annotated[Owner, Depends(owner_by_password)]


def _body(**example: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {} for name in example}}
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


_FOX = {"prompt": "a lighthouse at dusk", "steps": 20, "width": 512, "height": 512}
_DRAWN: dict[int | str, dict[str, Any]] = {
    200: {"description": "`images` in base64, `info` as JSON in a string"},
    **responses(*_ORDER),
}


@router.post("/txt2img", summary="Draw (A1111)", openapi_extra=_body(**_FOX), responses=_DRAWN)
async def txt2img(request: Request, owner: Client, body: JsonBody) -> Response:
    return await _serve(request, owner, body, image=False)


@router.post(
    "/img2img",
    summary="Draw over (A1111)",
    openapi_extra=_body(**_FOX, init_images=["iVBORw0KGgo..."], denoising_strength=0.75),
    responses=_DRAWN,
)
async def img2img(request: Request, owner: Client, body: JsonBody) -> Response:
    return await _serve(request, owner, body, image=True)


@get(router, "/options", summary="The chosen model", responses=responses(*_ACCESS))
def options(request: Request, owner: Client) -> dict[str, Any]:
    entry = _chosen(farm_of(request), owner)
    return {CHECKPOINT: a1111.title(entry), "sd_checkpoint_hash": entry.digest}


@router.post(
    "/options",
    summary="Choose a model; remembered for this owner",
    responses=responses(*_ACCESS, "model_not_found", "invalid_json", "invalid_value"),
    openapi_extra=_body(sd_model_checkpoint="sd3.5-large"),
)
def choose(request: Request, owner: Client, body: JsonBody) -> Response:
    farm, given = farm_of(request), json_object(body)
    ignored = Wish(ignored=[name for name in given if name != CHECKPOINT]).headers
    name = given.get(CHECKPOINT)
    if name is not None and not isinstance(name, str):
        raise refuse([Fault("invalid_value", CHECKPOINT, "must be a model's title")])
    if name:
        farm.store.note(owner.name, CHECKPOINT, _entry_named(farm, name))
    return JSONResponse(None, headers=ignored)


@get(router, "/sd-models", summary="The models", responses=responses(*_ACCESS))
def models(request: Request, owner: Client) -> list[dict[str, Any]]:
    return a1111.models(list(farm_of(request).catalog.entries.values()))


@get(router, "/samplers", summary="The one sampler", responses=responses(*_ACCESS))
def samplers(owner: Client) -> list[dict[str, Any]]:
    return [{"name": a1111.SAMPLER, "aliases": ["euler"], "options": {}}]


@get(router, "/schedulers", summary="The one schedule", responses=responses(*_ACCESS))
def schedulers(owner: Client) -> list[dict[str, Any]]:
    name = a1111.SCHEDULER
    return [{"name": name.lower(), "label": name, "aliases": None, "need_inner_model": False}]


@get(router, "/loras", summary="The LoRAs of the chosen model", responses=responses(*_ACCESS))
def loras(request: Request, owner: Client) -> list[dict[str, Any]]:
    farm = farm_of(request)
    return a1111.loras(farm.catalog.loras_of(_chosen(farm, owner)))


@get(router, "/upscalers", summary="None", responses=responses(*_ACCESS))
@get(router, "/latent-upscale-modes", summary="None", responses=responses(*_ACCESS))
@get(router, "/sd-vae", summary="None", responses=responses(*_ACCESS))
@get(router, "/sd-modules", summary="None", responses=responses(*_ACCESS))
def nothing(owner: Client) -> list[dict[str, Any]]:
    return []


@get(router, "/progress", summary="How far the newest job is", responses=responses(*_ACCESS))
def progress(request: Request, owner: Client, skip_current_image: bool = False) -> dict[str, Any]:
    """Of the caller's own newest job in this dialect."""
    farm = farm_of(request)
    job = _newest(farm, owner)
    current = None
    if job and not job.done and not skip_current_image:
        current = _latest_picture(farm, job)
    eta_s = seen(request, farm, job).eta_s if job and not job.done else None
    return a1111.progress(job, current, eta_s)


@router.post("/interrupt", summary="Cancel the newest job", responses=responses(*_ACCESS))
def interrupt(request: Request, owner: Client) -> dict[str, Any]:
    """The caller's own newest job in this dialect, and nobody else's."""
    farm = farm_of(request)
    job = _newest(farm, owner)
    if job and not job.done:
        request.state.job_id = job.id
        with suppress(JobFinished, JobNotFound):  # it was faster
            farm.store.cancel(job.id)
    return {}


@router.post(
    "/png-info",
    summary="What a picture says of itself",
    responses=responses(*_ACCESS, "invalid_json", "missing_field", "invalid_image"),
    openapi_extra=_body(image="iVBORw0KGgo..."),
)
def png_info(owner: Client, body: JsonBody) -> dict[str, Any]:
    image = json_object(body).get("image")
    if not isinstance(image, str):
        raise refuse([Fault("missing_field", "image", "send a picture in base64")])
    try:
        found = read_info(_decoded(image, "image"))
    except InvalidOrder as error:
        raise InvalidOrder(error.code, str(error), "image") from None
    text = found.get("parameters", "")
    return {"info": text, "items": found, "parameters": parse_infotext(text) if text else {}}


async def _serve(request: Request, owner: Owner, body: bytes, *, image: bool) -> Response:
    farm, given = farm_of(request), json_object(body)
    submission, headers = await run_in_threadpool(_order, request, farm, owner, given, image)

    def note(wait: Held) -> None:
        farm.store.note(owner.name, NEWEST, wait.job.id)

    def build(job: Job) -> Response:
        entry = farm.catalog.find(job.input["model"])
        pictures = [_picture(farm, job, image) for image in job.images]
        return JSONResponse(a1111.answer(job, pictures, entry, given))

    return await answered(request, farm, owner, submission, build, headers, taken=note)


def _order(
    request: Request, farm: Farm, owner: Owner, given: dict[str, Any], image: bool
) -> tuple[Submission, dict[str, str]]:
    chosen = farm.store.notes(owner.name).get(CHECKPOINT)
    wish = a1111.translate(given, chosen if chosen in farm.catalog.names else None, image=image)
    wish.fields.setdefault("prompt", "")
    if not wish.faults and image:
        _store_inputs(farm, owner, wish, bool(given.get("inpainting_mask_invert")))
    limits = Limits(farm.catalog, farm.settings.max_n, blank_prompt=True)
    order = read(wish.fields, limits, known_as=wish.spelled, found=wish.faults)
    return ordered(request, farm, owner, order), wish.headers


def _store_inputs(farm: Farm, owner: Owner, wish: Wish, invert: bool) -> None:
    """Put stored pictures for those in the order. Raises Problem 400."""
    field = wish.spelled["init_image"]
    init = store_image(farm, owner, _decoded(wish.fields["init_image"], field), field=field)
    wish.fields["init_image"] = {"sha256": init.sha256}
    if (text := wish.fields.get("mask_image")) is not None:
        data = _decoded(text, "mask")
        mask = store_image(farm, owner, data, field="mask", role="mask", invert=invert)
        wish.fields["mask_image"] = {"sha256": mask.sha256}


def _decoded(text: Any, field: str) -> bytes:
    """Base64, or a `data:` URL. Raises Problem 400."""
    try:
        plain = text.partition(",")[2] if text.startswith("data:") else text
        return base64.b64decode(plain, validate=True)
    except (AttributeError, ValueError):
        raise refuse([Fault("invalid_image", field, "is not base64")]) from None


def _entry_named(farm: Farm, title: str) -> str:
    """The id of the model with this title. Raises Problem 400."""
    try:
        return farm.catalog.find(a1111.plain_name(title)).id
    except InvalidOrder as error:
        raise Problem(400, error.code, str(error), CHECKPOINT) from None


def _chosen(farm: Farm, owner: Owner) -> ModelEntry:
    name = farm.store.notes(owner.name).get(CHECKPOINT, "")
    return farm.catalog.names.get(name, farm.catalog.default)


def _newest(farm: Farm, owner: Owner) -> Job | None:
    job_id = farm.store.notes(owner.name).get(NEWEST)
    try:
        return farm.store.get(job_id) if job_id else None
    except JobNotFound:
        return None


def _latest_picture(farm: Farm, job: Job) -> str | None:
    """The last of its pictures that is done: half-made ones are not kept."""
    done = [i for i in job.images if i.status is RenderState.succeeded]
    if not done:
        return None
    newest = max(done, key=lambda image: image.finished_at or 0.0)
    return base64.b64encode(drawn(farm, job, newest)).decode()


def _picture(farm: Farm, job: Job, image: JobImage) -> tuple[int, bytes, str]:
    """(seed, bytes, infotext): the text that stands in the picture."""
    data, render = drawn(farm, job, image), image.render
    text = images.read_info(data).get("parameters")
    entry = farm.catalog.entries.get(render.spec.model)
    noise = bool(entry and entry.random_weights)
    info = PictureInfo.of(render.spec, render.fingerprint, random_weights=noise)
    return render.spec.seed, data, text or infotext(info)
