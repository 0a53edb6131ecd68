"""The one door of every route that orders pictures, whatever its dialect."""

from __future__ import annotations

from fastapi import Request

from api.auth import Owner
from api.farm import Farm
from shared.store.values import Submission, Submitted


def take(
    request: Request, farm: Farm, owner: Owner, submission: Submission
) -> tuple[Submitted, dict[str, str]]:
    """Check what the owner's key allows, submit, count; the answer's headers come with it.

    `owner` is who asks; where an admin orders for another, the job's owner pays and no limit holds.
    The headers are `RateLimit-Policy`, `RateLimit` and `Idempotent-Replayed`, each where it applies;
    `Location` is the dialect's own. Raises Problem with its `Retry-After` while draining, when a
    limit or the queue is full, and when the key does not allow it; IdempotencyConflict,
    StoreUnavailable.
    """
    farm.drain.refuse_orders()
    submitted = farm.store.submit(submission)
    request.state.job_id = submitted.job.id
    _count(farm, submitted)
    return submitted, _headers(submitted)


def _headers(submitted: Submitted) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if submitted.replayed else {}


def _count(farm: Farm, submitted: Submitted) -> None:
    if not submitted.replayed:
        farm.metrics.images.labels("hit").inc(submitted.hits)
        farm.metrics.images.labels("attached").inc(submitted.attached)
        farm.metrics.images.labels("new").inc(submitted.made)
