"""OpenAI's Images API: generations, edits, variations. Never 202: its SDKs would see no pictures."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from api.auth import Caller, Owner
from api.dialects import openai
from api.dialects.openai import Manner
from api.dialects.openai_answers import answer, item
from api.dialects.openai_schema import BODY, CODES, EDIT, STREAMED, VARIATION
from api.dialects.wish import Wish
from api.errors import Fault, refuse, responses
from api.farm import Farm, farm_of
from api.forms import Form, read_form
from api.holding import answered, ordered, submitted
from api.inputs import store_image
from api.pictures import drawn
from api.reading import json_body, json_object, read
from api.schemas import Limits
from api.streaming import stream
from shared.jobs import Job
from shared.store.values import Submission

router = APIRouter(tags=["OpenAI"])
azure = APIRouter(tags=["OpenAI"])
VARIATION_STRENGTH = 0.7
JsonBody = Annotated[bytes, Depends(json_body)]
_ANSWERS = {200: STREAMED, **responses(*CODES)}
_DEPLOYMENT = "/openai/deployments/{deployment:path}/images"


@router.post(
    "/images/generations",
    summary="Draw (OpenAI)",
    openapi_extra={"requestBody": BODY},
    responses=_ANSWERS,
)
async def generations(request: Request, owner: Caller, body: JsonBody) -> Response:
    return await _generate(request, owner, body)


@azure.post(
    f"{_DEPLOYMENT}/generations",
    summary="Draw (Azure OpenAI)",
    openapi_extra={"requestBody": BODY},
    responses=_ANSWERS,
)
async def deployed(request: Request, owner: Caller, deployment: str, body: JsonBody) -> Response:
    return await _generate(request, owner, body, deployment)


@router.options(
    "/images/generations",
    status_code=204,
    summary="Whether this is served (no key)",
    responses=responses(),
)
async def served() -> Response:
    return Response(status_code=204, headers={"Allow": "OPTIONS, POST"})


@router.post(
    "/images/edits",
    summary="Draw over (OpenAI)",
    openapi_extra={"requestBody": EDIT},
    responses=_ANSWERS,
)
async def edits(request: Request, owner: Caller) -> Response:
    return await _edit(request, owner)


@azure.post(
    f"{_DEPLOYMENT}/edits",
    summary="Draw over (Azure OpenAI)",
    openapi_extra={"requestBody": EDIT},
    responses=_ANSWERS,
)
async def deployed_edits(request: Request, owner: Caller, deployment: str) -> Response:
    return await _edit(request, owner, deployment)


@router.post(
    "/images/variations",
    summary="Draw something like it (OpenAI)",
    openapi_extra={"requestBody": VARIATION},
    responses=_ANSWERS,
)
async def variations(request: Request, owner: Caller) -> Response:
    form = await read_form(request)
    unused = ["prompt"] if form.fields.get("prompt") else []
    form.fields |= {"prompt": "", "strength": form.fields.get("strength", str(VARIATION_STRENGTH))}
    unused += ["mask"] if form.files.pop("mask", None) else []
    farm = farm_of(request)
    wish, manner = await run_in_threadpool(_drawn_over, farm, owner, form, None)
    wish.ignored += unused
    return await _serve(request, farm, owner, wish, manner, "generation", blank_prompt=True)


async def _generate(
    request: Request, owner: Owner, body: bytes, deployment: str | None = None
) -> Response:
    farm = farm_of(request)
    wish, manner = _translated(farm, json_object(body), deployment)
    return await _serve(request, farm, owner, wish, manner, "generation")


async def _edit(request: Request, owner: Owner, deployment: str | None = None) -> Response:
    farm, form = farm_of(request), await read_form(request)
    wish, manner = await run_in_threadpool(_drawn_over, farm, owner, form, deployment)
    return await _serve(request, farm, owner, wish, manner, "edit")


def _translated(farm: Farm, body: dict[str, Any], deployment: str | None) -> tuple[Wish, Manner]:
    unknown = farm.settings.unknown_model
    return openai.translate(body, farm.catalog, unknown_model=unknown, deployment=deployment)


def _drawn_over(
    farm: Farm, owner: Owner, form: Form, deployment: str | None
) -> tuple[Wish, Manner]:
    """The form's fields, with its pictures stored. Raises Problem 400 for a bad picture."""
    wish, manner = _translated(farm, openai.scalars(form.fields), deployment)
    pictures, masks = form.files.pop("image", []), form.files.pop("mask", [])
    wish.ignored += [f"image[{number}]" for number in range(1, len(pictures))] + list(form.files)
    if not pictures:
        raise refuse([Fault("missing_field", "image", "send a picture as a file"), *wish.faults])
    image = store_image(farm, owner, pictures[0], field="image")
    wish.put("init_image", {"sha256": image.sha256}, "image")
    wish.fields.setdefault("strength", farm.settings.edit_strength)
    if masks:
        mask = store_image(farm, owner, masks[0], field="mask", role="alpha")
        if (mask.width, mask.height) != (image.width, image.height):
            raise refuse([Fault("invalid_image", "mask", "must be as large as the image")])
        wish.put("mask_image", {"sha256": mask.sha256}, "mask")
    return wish, manner


async def _serve(
    request: Request,
    farm: Farm,
    owner: Owner,
    wish: Wish,
    manner: Manner,
    kind: str,
    *,
    blank_prompt: bool = False,
) -> Response:
    limits = Limits(farm.catalog, farm.settings.max_n, blank_prompt)
    submission = await run_in_threadpool(_order, request, farm, owner, wish, limits)
    headers = {"X-Model": submission.job.input["model"], **wish.headers}
    if manner.stream:
        wait = await submitted(request, farm, owner, submission)
        return stream(request, farm, wait, manner.quality, kind, headers)

    def build(job: Job) -> Response:
        items = _items(request, farm, job, manner)
        return JSONResponse(answer(job, items, manner.quality))

    return await answered(request, farm, owner, submission, build, headers)


def _order(request: Request, farm: Farm, owner: Owner, wish: Wish, limits: Limits) -> Submission:
    order = read(wish.fields, limits, known_as=wish.spelled, found=wish.faults)
    return ordered(request, farm, owner, order)


def _items(request: Request, farm: Farm, job: Job, manner: Manner) -> list[dict[str, Any]]:
    if manner.response_format == "b64_json":
        return [item(job, image, data=drawn(farm, job, image)) for image in job.images]
    links, kind = farm.links(request), job.input["output_format"]
    return [item(job, i, url=links.file(job.id, i.index, kind)) for i in job.images]
