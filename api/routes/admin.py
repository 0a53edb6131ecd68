"""What only admins may do: look at poison, give it another try or drop it; read the audit log."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.auth import Admin
from api.door import again
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.inputs import keep_inputs
from api.listings import ActList, Jobs, PoisonList
from api.owner import Owner
from api.reading import digest_retry
from api.routes import get
from api.shown import seen
from api.submitting import take
from shared.errors import JobNotFound
from shared.fingerprint import pure
from shared.jobs import Job, JobStatus
from shared.store.values import Poison
from shared.views import rfc3339

router = APIRouter(tags=["operations"])
_REFUSALS = ("missing_api_key", "invalid_api_key", "admin_only", "store_unavailable")


@get(
    router,
    "/poison",
    summary="Renders that took down their workers",
    responses={200: {"model": PoisonList}, **responses(*_REFUSALS)},
)
def poison(request: Request, admin: Admin) -> dict[str, Any]:
    return {"object": "list", "data": [_shown(each) for each in farm_of(request).store.poison()]}


@router.post(
    "/poison/{render_id}/retry",
    status_code=202,
    summary="Retry every job that failed with it, then drop it",
    responses={
        202: {"model": Jobs},
        **responses(*_REFUSALS, "render_not_found", "model_not_found", "queue_full"),
    },
)
def retry(request: Request, admin: Admin, render_id: str) -> dict[str, Any]:
    farm = farm_of(request)
    jobs = _remembered(farm, _find(farm, render_id))
    failed = (job for job in jobs if job.status is JobStatus.failed)
    fresh = [_again(request, farm, admin, old, render_id) for old in failed]
    farm.audit.note(request, admin, "poison.retried", render_id, whose=_owners(jobs))
    request.state.job_id = None  # the answer is about many
    if all(job.done for job in jobs):  # else the others can be retried when they are
        farm.store.drop_poison(render_id)
    return {"object": "list", "data": [seen(request, farm, job) for job in fresh]}


@router.delete(
    "/poison/{render_id}",
    status_code=204,
    summary="Take it off the list; its jobs stay failed",
    responses=responses(*_REFUSALS, "render_not_found"),
)
def drop(request: Request, admin: Admin, render_id: str) -> Response:
    farm = farm_of(request)
    if not farm.store.drop_poison(render_id):
        raise _unknown()
    farm.audit.note(request, admin, "poison.dropped", render_id)
    return Response(status_code=204)


@get(
    router,
    "/audit",
    summary="What admins did, the newest first",
    responses={200: {"model": ActList}, **responses(*_REFUSALS)},
)
def audit(
    request: Request,
    admin: Admin,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[
        str | None,
        Query(
            pattern=r"^[0-9]{1,18}(-[0-9]{1,18})?$",
            description="The last id of the page before",
            examples=["1767610800000-0"],
        ),
    ] = None,
) -> dict[str, Any]:
    """`after`: the id of the last act that was seen."""
    acts = farm_of(request).audit.kept.acts(limit, after)
    data = [{"object": "act", **act.model_dump(), "at": rfc3339(act.at)} for act in acts]
    return {"object": "list", "data": data, "has_more": len(acts) == limit}


def _owners(jobs: list[Job]) -> str:
    return ",".join(sorted({job.owner for job in jobs}))


def _find(farm: Farm, render_id: str) -> Poison:
    for each in farm.store.poison():
        if each.render_id == render_id:
            return each
    raise _unknown()


def _unknown() -> Problem:
    return Problem(404, "render_not_found", "there is no such render on the list of poison")


def _remembered(farm: Farm, found: Poison) -> list[Job]:
    jobs = []
    for job_id in found.jobs:
        with suppress(JobNotFound):  # it expired since
            jobs.append(farm.store.get(job_id))
    return jobs


def _again(request: Request, farm: Farm, admin: Owner, old: Job, render_id: str) -> Job:
    """One new job, however often this is asked: no client's key has a space in it."""
    key = (f"poison {render_id} {old.id}", digest_retry(old.id))
    entry = farm.catalog.find(old.input["model"])
    keep_inputs(farm, old)
    loras = farm.catalog.loras
    submission = again(old, entry, now=time.time(), idempotency=key, loras=loras)
    return take(request, farm, admin, submission)[0].job


def _shown(found: Poison) -> dict[str, Any]:
    return {
        "object": "poison",
        "render": found.render_id,
        "fingerprint": pure(found.fingerprint),
        "spec": found.spec.model_dump(mode="json"),
        "jobs": found.jobs,
        "owners": found.owners,
        "attempts": found.attempts,
        "losses": found.losses,
        "failed_at": rfc3339(found.failed_at),
        "error": found.error.model_dump(mode="json"),
    }
