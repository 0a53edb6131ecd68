"""The jobs of an owner: a page of them, and the end of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.auth import Caller
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.listing import Listing, parameters, read_listing
from api.routes import get
from api.shown import seen
from shared.answers import JobPageView, JobView
from shared.errors import JobNotFinished
from shared.gc import purge as purge_pictures
from shared.store.queries import JobPage

router = APIRouter(tags=["jobs"])


@get(
    router,
    "/jobs",
    summary="List your jobs",
    openapi_extra={"parameters": parameters()},
    responses={
        200: {"model": JobPageView, "headers": {"Link": {
            "description": '`<URL>; rel="next"` while `has_more`, `prev` where `before` was asked',
            "schema": {"type": "string"},
        }}},
        **responses(
            "invalid_value", "unknown_field", "invalid_cursor", "conflicting_fields",
            "missing_api_key", "invalid_api_key", "admin_only", "store_unavailable",
        ),
    },
)  # fmt: skip
def listed(request: Request, owner: Caller) -> Response:
    farm = farm_of(request)
    listing, metadata = read_listing(request)
    page = farm.store.jobs(listing.query(owner, farm.catalog, metadata))
    jobs = page.jobs[::-1] if listing.before else page.jobs
    view = _page([seen(request, farm, job) for job in jobs], page, backwards=bool(listing.before))
    headers = _link(request, farm, listing, page) if page.has_more else {}
    body = view.model_dump_json().encode()
    return Response(body, 200, headers | {"Cache-Control": "private, no-cache"}, "application/json")


@router.delete(
    "/jobs/{job_id}",
    status_code=204,
    summary="Forget a finished job",
    responses=responses(
        "unknown_field", "invalid_value", "missing_api_key", "invalid_api_key", "job_not_found",
        "job_gone", "job_not_finished", "store_unavailable",
    ),
)  # fmt: skip
def delete(
    request: Request,
    owner: Caller,
    job_id: str,
    purge: Annotated[
        bool, Query(description="Also delete the stored pictures that no other job refers to")
    ] = False,
) -> Response:
    farm = farm_of(request)
    for name in request.query_params.keys() - {"purge"}:  # a misread option must not delete
        raise Problem(400, "unknown_field", "DELETE knows only purge", name)
    job = farm.find(request, job_id, owner)
    if not job.done:
        raise JobNotFinished
    if purge:
        purge_pictures(farm.store, farm.results, job_id)
    farm.store.delete(job_id)
    farm.audit.upon_another(request, owner, "job.deleted", job)
    return Response(status_code=204)


def _page(jobs: Sequence[JobView], page: JobPage, *, backwards: bool) -> JobPageView:
    """Where more follows, the id on that side is the last one looked at: a rare job is far away."""
    first = jobs[0].id if jobs else None
    last = jobs[-1].id if jobs else None
    if page.has_more:
        first, last = (page.last, last) if backwards else (first, page.last)
    return JobPageView(data=list(jobs), first_id=first, last_id=last, has_more=page.has_more)


def _link(request: Request, farm: Farm, listing: Listing, page: JobPage) -> dict[str, str]:
    cursor, relation = ("before", "prev") if listing.before else ("after", "next")
    kept = [pair for pair in request.query_params.multi_items() if pair[0] != cursor]
    query = urlencode([*kept, (cursor, page.last)])
    return {"Link": f'<{farm.links(request).base}/jobs?{query}>; rel="{relation}"'}
