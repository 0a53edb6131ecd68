"""The native job API: order, look, cancel, retry."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from api.auth import Caller
from api.door import admit, again
from api.errors import Problem, responses
from api.estimates import estimate
from api.farm import Farm, farm_of
from api.inputs import keep_inputs, receive
from api.multipart import Body, order_body
from api.owner import Owner
from api.prefer import Prefer, answer
from api.reading import digest, digest_retry, key_of, parse
from api.routes import get
from api.schemas import EXAMPLES, Limits, form_schema, schema
from api.shown import shown
from api.submitting import allowed, take
from shared.answers import EstimateView, JobView
from shared.jobs import Job
from shared.store.values import Submission

router = APIRouter(tags=["jobs"])
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": schema(), "examples": EXAMPLES},
        "multipart/form-data": {"schema": form_schema()},
    },
}


@router.post(
    "/jobs",
    status_code=202,
    summary="Order images",
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {
            "model": JobView | EstimateView,
            "description": "Done already, from the cache; or what was asked with `dry_run`",
        },
        202: {"model": JobView, "description": "Taken; ask `Location` again"},
        **responses(
            "invalid_json", "invalid_value", "missing_field", "unknown_field", "invalid_size",
            "conflicting_fields", "model_not_found", "lora_not_found", "unsupported_for_model",
            "invalid_image", "webhook_url_not_allowed",
            "inputs_busy", "invalid_idempotency_key", "missing_api_key", "invalid_api_key",
            "scope_missing", "priority_not_allowed", "body_too_large", "unsupported_media_type",
            "idempotency_key_reused", "rate_limit_exceeded", "quota_exceeded", "draining",
            "queue_full", "store_unavailable",
        ),
    },
)  # fmt: skip
async def submit(
    request: Request,
    owner: Caller,
    body: Annotated[Body, Depends(order_body)],
    idempotency_key: Annotated[str | None, Header()] = None,
    dry_run: Annotated[
        bool, Query(description="Take nothing: say what it would cost and when it would be done")
    ] = False,
    prefer: Prefer = None,
) -> Response:
    farm = farm_of(request)

    def submission() -> Submission:
        farm.drain.refuse_orders()
        for name in request.query_params.keys() - {"dry_run"}:  # a misread option costs a render
            raise Problem(400, "unknown_field", "POST /jobs knows only dry_run", name)
        order = parse(body, Limits(farm.catalog, farm.settings.max_n, hosts=farm.hosts))
        entry = farm.catalog.find(order.model) if order.model else farm.catalog.default
        order, given = receive(farm, owner, order, keep=not dry_run)
        replay = None if idempotency_key is None else (key_of(idempotency_key), digest(order))
        now, base = time.time(), farm.links(request).base
        return admit(
            order, entry, owner, now=now, idempotency=replay, given=given,
            loras=farm.catalog.loras, base=base,
        )  # fmt: skip

    if dry_run:
        estimated = await run_in_threadpool(
            lambda: estimate(farm, allowed(farm, owner, submission()))
        )
        return Response(estimated.model_dump_json(), media_type="application/json")
    return await taken(request, farm, owner, submission)


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
async def look(request: Request, owner: Caller, job_id: str, prefer: Prefer = None) -> Response:
    farm = farm_of(request)
    return await answer(
        request,
        farm,
        lambda: farm.find(request, job_id, owner),
        lambda job: shown(request, farm, job, 200, {"Cache-Control": "private, no-cache"}),
    )


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
            "model_not_found", "lora_not_found", "unsupported_for_model",
            "invalid_idempotency_key", "missing_api_key", "invalid_api_key",
            "scope_missing", "job_not_found", "job_gone", "job_not_finished",
            "job_already_finished", "idempotency_key_reused", "rate_limit_exceeded",
            "quota_exceeded", "draining", "queue_full", "store_unavailable",
        ),
    },
)  # fmt: skip
async def retry(
    request: Request,
    owner: Caller,
    job_id: str,
    idempotency_key: Annotated[str | None, Header()] = None,
    prefer: Prefer = None,
) -> Response:
    farm = farm_of(request)

    def submission() -> Submission:
        farm.drain.refuse_orders()
        old = farm.find(request, job_id, owner)
        replay = (
            None if idempotency_key is None else (key_of(idempotency_key), digest_retry(old.id))
        )
        entry = farm.catalog.find(old.input["model"])
        keep_inputs(farm, old)
        loras = farm.catalog.loras
        return again(old, entry, now=time.time(), idempotency=replay, loras=loras)

    return await taken(request, farm, owner, submission)


async def taken(
    request: Request, farm: Farm, owner: Owner, submission: Callable[[], Submission]
) -> Response:
    """The job that is ordered, as soon as it is done if the client waits for it."""
    headers: dict[str, str] = {}

    def submit() -> Job:
        submitted, said = take(request, farm, owner, submission())
        headers.update(said, Location=farm.links(request).job(submitted.job.id))
        return submitted.job

    return await answer(
        request,
        farm,
        submit,
        lambda job: shown(request, farm, job, 200 if job.done else 202, headers),
    )
