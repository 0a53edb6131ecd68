"""The pictures of a job, by what the client accepts."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from api.auth import Caller
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.listings import ResultJson
from api.negotiation import preferred, unchanged
from api.pictures import picture, whole
from api.routes import get
from api.shown import shown
from shared import images
from shared.answers import JobView
from shared.jobs import OPEN, Job, JobImage, RenderState, StoredResult
from shared.links import CONTENT_TYPES

router = APIRouter(tags=["jobs"])
_JSON = "application/json"
_VARIES = {"Cache-Control": "private, no-cache", "Vary": "Accept"}


@get(
    router,
    "/jobs/{job_id}/result",
    summary="Fetch a picture, or all as JSON",
    responses={
        200: {
            "description": "By `Accept`: the bytes of one picture, or JSON with all of them",
            "model": ResultJson,
            "content": {kind: {} for kind in CONTENT_TYPES.values()},
        },
        202: {"model": JobView, "description": "Not finished yet"},
        206: {"description": "The bytes that `Range` asked for"},
        304: {"description": "Nothing changed"},
        **responses(
            "missing_api_key", "invalid_api_key", "scope_missing", "job_not_found", "job_gone", "image_not_found",
            "not_acceptable", "result_gone", "job_failed", "job_canceled", "job_expired",
            "invalid_range", "store_unavailable",
        ),
    },
)  # fmt: skip
def result(
    request: Request, owner: Caller, job_id: str, index: Annotated[int, Query(ge=0)] = 0
) -> Response:
    farm = farm_of(request)
    job = farm.find(request, job_id, owner)
    offers = [CONTENT_TYPES[job.input["output_format"]], *CONTENT_TYPES.values(), _JSON]
    media_type = preferred(request.headers.get("accept", ""), offers)
    if media_type is None:
        raise Problem(406, "not_acceptable", f"this can be {', '.join(dict.fromkeys(offers))}")
    if media_type == _JSON:
        return _all(request, farm, job)
    if index >= len(job.images):
        raise Problem(404, "image_not_found", f"the job has {len(job.images)} images", "index")
    image = job.images[index]
    if image.status in OPEN:
        return shown(request, farm, job, 202, dict(_VARIES))
    if image.status is not RenderState.succeeded or image.render.result is None:
        raise without_picture(image)
    kind = next(kind for kind, media in CONTENT_TYPES.items() if media == media_type)
    return picture(request, farm, job, image, image.render.result, kind, dict(_VARIES))


def _all(request: Request, farm: Farm, job: Job) -> Response:
    """Every picture there is, in the order's format, once the job is done."""
    if not job.done:
        return shown(request, farm, job, 202, dict(_VARIES))
    found = [(i, i.render.result) for i in job.images if i.status is RenderState.succeeded]
    pictures = [(image, stored) for image, stored in found if stored]
    if not pictures:
        raise without_picture(job.images[0])
    headers = {**_VARIES, "ETag": _etag(job, [stored for _, stored in pictures])}
    if unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    entries = [_entry(farm, job, image, stored) for image, stored in pictures]
    return JSONResponse({"images": entries}, headers=headers)


def _entry(farm: Farm, job: Job, image: JobImage, stored: StoredResult) -> dict[str, Any]:
    kind, compression = job.input["output_format"], job.input["output_compression"]
    data = images.convert(whole(farm, image, stored), kind, compression)
    text = base64.b64encode(data).decode()
    return {"index": image.index, "seed": image.render.spec.seed, "b64_json": text}


def _etag(job: Job, pictures: list[StoredResult]) -> str:
    parts = [job.input["output_format"], str(job.input["output_compression"])]
    named = " ".join([*parts, *(stored.sha256 for stored in pictures)])
    return f'"{hashlib.sha256(named.encode()).hexdigest()}"'


def without_picture(image: JobImage) -> Problem:
    """Why a finished image has nothing to fetch."""
    if image.render.verdict:
        return Problem(404, "image_not_found", "a verification stores no picture; see its `verify`")
    if image.status is RenderState.failed:
        error = image.render.error
        return Problem(410, "job_failed", error.message if error else "the image failed")
    if image.dropped == "expired":
        return Problem(410, "job_expired", "the image had not been started by the deadline")
    return Problem(410, "job_canceled", "the image was canceled")
