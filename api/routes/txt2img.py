"""One picture as bytes: for scripts, and for the clients of Hugging Face."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from api.auth import Caller, Owner
from api.dialects import plain
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.holding import answered, ordered
from api.negotiation import preferred
from api.pictures import described, drawn
from api.reading import json_body, json_object, read
from api.schemas import EXAMPLES, Limits, schema
from api.shown import shown
from api.submitting import take
from shared.answers import JobView
from shared.jobs import Job
from shared.links import CONTENT_TYPES
from shared.store.values import Submission


async def _tell_errors(request: Request) -> None:
    """These clients show a header where others show the body."""
    request.state.tells_errors = True


router = APIRouter(tags=["image bytes"], dependencies=[Depends(_tell_errors)])
_JSON = "application/json"
_HUGGING_FACE = {
    "type": "object",
    "required": ["inputs"],
    "properties": {"inputs": {"type": "string"}, "parameters": {"type": "object"}},
}
_EXAMPLE = {
    "summary": "As Hugging Face's clients send it",
    "value": {"inputs": "a lighthouse at dusk", "parameters": {"seed": 42, "width": 512}},
}
_BODY = {
    "required": True,
    "content": {
        _JSON: {
            "schema": {"anyOf": [schema(), _HUGGING_FACE]},
            "examples": {"short": EXAMPLES["short"], "hugging_face": _EXAMPLE},
        }
    },
}


@router.post(
    "/txt2img",
    summary="Draw one picture and answer its bytes",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {
            "description": "By `Accept`: the bytes, or JSON with the picture in base64",
            "content": {kind: {} for kind in (*CONTENT_TYPES.values(), _JSON)},
        },
        202: {"model": JobView, "description": "`Prefer: respond-async`: the job"},
        **responses(
            "invalid_json", "invalid_value", "missing_field", "invalid_size", "conflicting_fields",
            "model_not_found", "lora_not_found", "unsupported_for_model",
            "invalid_idempotency_key", "invalid_image",
            "missing_api_key", "invalid_api_key", "not_acceptable", "job_canceled", "job_expired",
            "body_too_large", "unsupported_media_type", "idempotency_key_reused", "render_error",
            "model_not_ready", "draining", "queue_full", "store_unavailable", "sync_timeout",
        ),
    },
)  # fmt: skip
async def txt2img(
    request: Request, owner: Caller, body: Annotated[bytes, Depends(json_body)]
) -> Response:
    farm = farm_of(request)
    submission, headers = await run_in_threadpool(_order, request, farm, owner, body)
    if _wants_job(request):
        return await run_in_threadpool(_taken, request, farm, owner, submission, headers)
    kind = _kind(request, submission)

    def build(job: Job) -> Response:
        return _picture(farm, job, kind)

    return await answered(request, farm, owner, submission, build, headers, json=kind == _JSON)


def _order(
    request: Request, farm: Farm, owner: Owner, body: bytes
) -> tuple[Submission, dict[str, str]]:
    wish = plain.translate(json_object(body))
    limits = Limits(farm.catalog, farm.settings.max_n, hosts=farm.hosts)
    order = read(wish.fields, limits, known_as=wish.spelled, found=wish.faults)
    return ordered(request, farm, owner, order), wish.headers


def _wants_job(request: Request) -> bool:
    wishes = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return "respond-async" in (wish.partition(";")[0].strip() for wish in wishes)


def _taken(
    request: Request, farm: Farm, owner: Owner, submission: Submission, headers: dict[str, str]
) -> Response:
    """The job, which nobody holds."""
    taken, more = take(request, farm, owner, replace(submission, attendance=None))
    headers |= more | {
        "Location": farm.links(request).job(taken.job.id),
        "Preference-Applied": "respond-async",
    }
    return shown(request, farm, taken.job, 200 if taken.job.done else 202, headers)


def _kind(request: Request, submission: Submission) -> str:
    """The media type to answer with, before anything is drawn. Raises Problem 406."""
    offers = [CONTENT_TYPES[submission.job.input["output_format"]], *CONTENT_TYPES.values(), _JSON]
    kind = preferred(request.headers.get("accept", ""), offers)
    if kind is None:
        raise Problem(406, "not_acceptable", f"this can be {', '.join(dict.fromkeys(offers))}")
    return kind


def _picture(farm: Farm, job: Job, kind: str) -> Response:
    image = job.images[0]
    stored = image.render.result
    assert stored is not None  # it has succeeded
    made = next((f for f, media in CONTENT_TYPES.items() if media == kind), None)
    data = drawn(farm, job, image, made)
    headers = {
        **described(job, image, stored, made or job.input["output_format"]),
        "Finish-Reason": "SUCCESS",
        "X-Cache": "hit" if image.cached else "miss",
        "Vary": "Accept",
    }
    if made is not None:
        return Response(data, 200, headers, kind)
    body: dict[str, Any] = {
        "image": base64.b64encode(data).decode(),
        "seed": image.render.spec.seed,
        "finish_reason": "SUCCESS",
        "job_id": job.id,
    }
    return JSONResponse(body, headers=headers)
