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
from shared.jobs import Job
from shared.views import job_view


def shown(request: Request, farm: Farm, job: Job, status: int, headers: dict[str, str]) -> Response:
    """The Job, with a weak ETag of its body; 304 where the client has just this."""
    view = view_of(request, farm, job)
    body = view.model_dump_json().encode()
    headers["ETag"] = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    if not view.done:
        headers["Retry-After"] = str(retry_after_s(view))
    if request.method != "POST" and status == 200 and unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, status, headers, "application/json")


def view_of(request: Request, farm: Farm, job: Job) -> JobView:
    """The job as this request sees it now. Raises StoreUnavailable as `job_view` does."""
    retention_s = farm.settings.job_retention_s
    return job_view(job, farm.links(request), now=time.time(), retention_s=retention_s)


def retry_after_s(view: JobView) -> int:
    """When to ask again: 1..10 s."""
    guess = view.eta_s if view.eta_s is not None else (view.queue_position or 0) + 1
    return max(1, min(10, math.ceil(guess)))
