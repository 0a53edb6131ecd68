"""The native job API: order, look, cancel, retry."""

from __future__ import annotations

import re
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import Response

from api.answers import JobView
from api.auth import Caller
from api.door import admit, again
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.owner import Owner
from api.reading import digest, digest_retry, json_body, parse
from api.routes import get
from api.schemas import EXAMPLES, Limits, schema
from api.submitting import take
from api.views import shown
from shared.store.values import Submission

router = APIRouter(tags=["jobs"])
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": schema(), "examples": EXAMPLES}},
}


@router.post(
    "/jobs",
    status_code=202,
    summary="Order images",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {"model": JobView, "description": "Done already, from the cache"},
        202: {"model": JobView, "description": "Taken; ask `Location` again"},
        **responses(
            "invalid_json", "invalid_value", "missing_field", "unknown_field", "invalid_size",
            "conflicting_fields", "model_not_found", "unsupported_for_model",
            "invalid_idempotency_key", "missing_api_key", "invalid_api_key", "scope_missing",
            "priority_not_allowed", "body_too_large", "unsupported_media_type",
            "idempotency_key_reused", "rate_limit_exceeded", "quota_exceeded", "draining",
            "queue_full", "store_unavailable",
        ),
    },
)  # fmt: skip
def submit(
    request: Request,
    owner: Caller,
    body: Annotated[bytes, Depends(json_body)],
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    farm = farm_of(request)
    farm.drain.refuse_orders()
    for name in request.query_params:  # a misread option must not cost a render
        raise Problem(400, "unknown_field", "POST /jobs takes no query parameters", name)
    order = parse(body, Limits(farm.catalog, farm.settings.max_n))
    entry = farm.catalog.find(order.model) if order.model else farm.catalog.default
    replay = None if idempotency_key is None else (_key(idempotency_key), digest(order))
    submission = admit(order, entry, owner, now=time.time(), idempotency=replay)
    return _taken(request, farm, owner, submission)


@get(
    router,
    "/jobs/{job_id}",
    summary="Look at a job",
    responses={
        200: {"model": JobView},
        304: {"description": "Nothing changed"},
        **responses(
            "missing_api_key",
            "invalid_api_key",
            "scope_missing",
            "job_not_found",
            "job_gone",
            "store_unavailable",
        ),
    },
)
def look(request: Request, owner: Caller, job_id: str) -> Response:
    farm = farm_of(request)
    job = farm.find(request, job_id, owner)
    return shown(request, farm, job, 200, {"Cache-Control": "private, no-cache"})


@router.post(
    "/jobs/{job_id}/cancel",
    summary="Stop what has not finished",
    responses={
        200: {"model": JobView},
        **responses(
            "missing_api_key", "invalid_api_key", "scope_missing", "job_not_found", "job_gone",
            "job_already_finished", "store_unavailable",
        ),
    },
)  # fmt: skip
def cancel(request: Request, owner: Caller, job_id: str) -> Response:
    farm = farm_of(request)
    farm.find(request, job_id, owner)
    job = farm.store.cancel(job_id)
    farm.audit.upon_another(request, owner, "job.canceled", job)
    return shown(request, farm, job, 200, {})


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    summary="Order again what did not succeed",
    responses={
        200: {"model": JobView, "description": "Done already, from the cache"},
        202: {"model": JobView, "description": "A new job; `retries` names the old one"},
        **responses(
            "model_not_found", "invalid_idempotency_key", "missing_api_key", "invalid_api_key",
            "scope_missing", "job_not_found", "job_gone", "job_not_finished",
            "job_already_finished", "idempotency_key_reused", "rate_limit_exceeded",
            "quota_exceeded", "draining", "queue_full", "store_unavailable",
        ),
    },
)  # fmt: skip
def retry(
    request: Request,
    owner: Caller,
    job_id: str,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    farm = farm_of(request)
    farm.drain.refuse_orders()
    old = farm.find(request, job_id, owner)
    replay = None if idempotency_key is None else (_key(idempotency_key), digest_retry(old.id))
    entry = farm.catalog.find(old.input["model"])
    submission = again(old, entry, now=time.time(), idempotency=replay)
    answer = _taken(request, farm, owner, submission)
    farm.audit.upon_another(request, owner, "job.retried", old)
    return answer


def _taken(request: Request, farm: Farm, owner: Owner, submission: Submission) -> Response:
    submitted, headers = take(request, farm, owner, submission)
    headers["Location"] = farm.links(request).job(submitted.job.id)
    return shown(request, farm, submitted.job, 200 if submitted.job.done else 202, headers)


def _key(given: str) -> str:
    if not _IDEMPOTENCY_KEY.fullmatch(given):
        detail = "Idempotency-Key must be 1 to 255 visible ASCII characters"
        raise Problem(400, "invalid_idempotency_key", detail, "Idempotency-Key")
    return given
