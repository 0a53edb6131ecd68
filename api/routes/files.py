"""Pictures by signed URL, or by their owner's key."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from api.auth import CallerKey
from api.errors import Problem, responses
from api.farm import farm_of
from api.pictures import picture
from api.routes import get
from api.signed import Expiry, Signature, opener
from shared.jobs import RenderState
from shared.links import CONTENT_TYPES, EXTENSIONS, file_path

router = APIRouter(tags=["files"])
_KINDS = {extension: kind for kind, extension in EXTENSIONS.items()}
_FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}


@get(
    router,
    "/files/{job_id}/{index}.{extension}",
    summary="Open a picture",
    responses={
        200: {"content": {kind: {} for kind in CONTENT_TYPES.values()}},
        206: {"description": "The bytes that `Range` asked for"},
        304: {"description": "Nothing changed"},
        **responses(
            "missing_api_key", "invalid_api_key", "url_expired", "job_not_found",
            "job_gone", "image_not_found", "result_gone", "invalid_range", "store_unavailable",
        ),
    },
)  # fmt: skip
def file(
    request: Request,
    key: CallerKey,
    job_id: str,
    index: Annotated[int, Path(ge=0)],
    extension: Literal["png", "webp", "jpg"],
    exp: Expiry = None,
    sig: Signature = None,
) -> Response:
    farm = farm_of(request)
    owner = opener(request, farm, key, file_path(job_id, index, extension), exp, sig)
    job = farm.find(request, job_id, owner)
    image = job.images[index] if index < len(job.images) else None
    if image is None or image.status is not RenderState.succeeded or image.render.result is None:
        raise Problem(404, "image_not_found", "the job has no such picture, or not yet")
    kind = _KINDS[extension]
    return picture(request, farm, job, image, image.render.result, kind, dict(_FOR_EVER))
