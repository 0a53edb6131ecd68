"""Is a stored picture what its order still draws? Render it again and compare."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from api.auth import Caller
from api.door import verification
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.inputs import keep_inputs
from api.pictures import look_for
from api.prefer import Prefer
from api.reading import digest_verify, json_body, key_of, read_small
from api.routes.jobs import taken
from api.routes.results import without_picture
from shared.answers import JobView
from shared.errors import JobNotFinished
from shared.jobs import Job, JobImage, RenderState, StoredResult
from shared.store.values import Submission

router = APIRouter(tags=["jobs"])


class Verify(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    index: int = Field(0, ge=0, description="Which image of the job")


_BODY = {
    "required": False,
    "content": {
        "application/json": {"schema": Verify.model_json_schema(), "example": {"index": 0}}
    },
}


@router.post(
    "/jobs/{job_id}/verify",
    status_code=202,
    summary="Render an image again and compare it with the stored picture",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {"model": JobView, "description": "The job that this Idempotency-Key made, done"},
        202: {
            "model": JobView,
            "description": "A new job; `verifies` names the old one, and once it is done "
            "`images[0].verify` says what came out. It stores nothing and answers no other order.",
        },
        **responses(
            "invalid_json", "invalid_value", "unknown_field", "model_not_found",
            "unsupported_for_model", "invalid_idempotency_key", "missing_api_key",
            "invalid_api_key", "job_not_found", "image_not_found", "job_not_finished", "job_gone",
            "result_gone", "job_failed", "job_canceled", "job_expired", "body_too_large",
            "unsupported_media_type", "idempotency_key_reused", "draining", "queue_full",
            "store_unavailable",
        ),
    },
)  # fmt: skip
async def verify(
    request: Request,
    owner: Caller,
    job_id: str,
    body: Annotated[bytes, Depends(json_body)],
    idempotency_key: Annotated[str | None, Header()] = None,
    prefer: Prefer = None,
) -> Response:
    farm = farm_of(request)

    def submission() -> Submission:
        farm.drain.refuse_orders()
        index = read_small(Verify, body).index
        old = farm.find(request, job_id, owner)
        image, stored = _stored(farm, old, index)
        key = None if idempotency_key is None else key_of(idempotency_key)
        replay = key and (key, digest_verify(old.id, index))
        entry = farm.catalog.find(old.input["model"])
        keep_inputs(farm, old)
        return verification(old, image, stored, entry, now=time.time(), idempotency=replay or None)

    return await taken(request, farm, owner, submission)


def _stored(farm: Farm, old: Job, index: int) -> tuple[JobImage, StoredResult]:
    """The image and its picture, which is there. Raises Problem, JobNotFinished, ResultGone."""
    if not old.done:
        raise JobNotFinished
    if index >= len(old.images):
        raise Problem(404, "image_not_found", f"the job has {len(old.images)} images", "index")
    image = old.images[index]
    if image.status is not RenderState.succeeded or image.render.result is None:
        raise without_picture(image)
    look_for(farm, image, image.render.result)
    return image, image.render.result
