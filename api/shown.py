"""A Job as an answer: its JSON, a weak ETag of it, and when to ask again."""

from __future__ import annotations

import hashlib
import math
import time

from fastapi import Request
from fastapi.responses import Response

from api.farm import Farm
from api.negotiation import unchanged
from shared.answers import JobView
from shared.eta import Crew
from shared.jobs import Job, JobStatus
from shared.views import job_view


def shown(request: Request, farm: Farm, job: Job, status: int, headers: dict[str, str]) -> Response:
    """The Job, with a weak ETag of its body; 304 where the client has just this."""
    view = seen(request, farm, job)
    body = view.model_dump_json().encode()
    headers["ETag"] = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    if not view.done:
        headers["Retry-After"] = str(retry_after_s(view))
    if request.method != "POST" and status == 200 and unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, status, headers, "application/json")


def seen(request: Request, farm: Farm, job: Job) -> JobView:
    """The job as it is now. Raises StoreUnavailable."""
    now = time.time()
    view = job_view(
        job,
        farm.links(request),
        now=now,
        retention_s=farm.settings.job_retention_s,
        crew=crew_of(farm, job),
    )
    farm.promises.told(job.id, view.eta_s, now)
    if job.status is JobStatus.succeeded:
        farm.promises.kept(job.id, max(image.finished_at or now for image in job.images))
    return view


def crew_of(farm: Farm, job: Job) -> Crew:
    """The workers that a job with queued images waits for. Raises StoreUnavailable."""
    waiting = [image.render.pool for image in job.images if image.position is not None]
    return Crew.of(waiting[0], farm.workers()) if waiting else Crew()


def retry_after_s(view: JobView) -> int:
    """When to ask again: 1..10 s."""
    guess = view.eta_s if view.eta_s is not None else (view.queue_position or 0) + 1
    return max(1, min(10, math.ceil(guess)))
