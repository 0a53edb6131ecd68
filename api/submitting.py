"""The one door of every route that orders pictures, whatever its dialect."""

from __future__ import annotations

from dataclasses import replace

from fastapi import Request

from api.door import scoped
from api.errors import rate_headers
from api.farm import Farm
from api.limits import check
from api.owner import Owner
from shared.jobs import JobImage, device_seconds
from shared.store.values import Submission, Submitted
from shared.traces import current


def take(
    request: Request, farm: Farm, owner: Owner, submission: Submission
) -> tuple[Submitted, dict[str, str]]:
    """Check what the owner's key allows, submit, count; the answer's headers come with it.

    `owner` is who asks; where an admin orders for another, the job's owner pays and no limit holds.
    The headers are `RateLimit-Policy`, `RateLimit` and `Idempotent-Replayed`, each where it applies;
    `Location` is the dialect's own. Raises Problem 400, 403 and 503 (draining); TryLater, which
    `api.errors` makes a 429 or 503 with `Retry-After`; IdempotencyConflict, StoreUnavailable.
    """
    farm.drain.refuse_orders()
    span = current()
    job = submission.job.model_copy(update={"trace": span.context})
    submitted = farm.store.submit(allowed(farm, owner, replace(submission, job=job)))
    request.state.job_id = submitted.job.id
    span.tell(
        job=submitted.job.id,
        model=submitted.job.input["model"],
        replayed=submitted.replayed,
        cached=submitted.hits,
        attached=submitted.attached,
        made=submitted.made,
    )
    _count(farm, submission, submitted)
    if not submitted.replayed:  # only a retry or a verification is ordered for another
        what = "job.retried" if submitted.job.retries else "job.verified"
        farm.audit.upon_another(request, owner, what, submitted.job)
    replayed = {"Idempotent-Replayed": "true"} if submitted.replayed else {}
    return submitted, rate_headers(submitted.rate) | replayed


def allowed(farm: Farm, owner: Owner, submission: Submission) -> Submission:
    """The submission as the store takes it, or foresees it: with its owner's limits and weight.

    Raises Problem 400 and 403.
    """
    if owner.grant and owner.name == submission.job.owner:
        check(owner.grant, submission)
        submission = replace(submission, limits=owner.limits, weight=owner.grant.weight)
    return scoped(submission, farm.settings.cache_scope)


def _count(farm: Farm, submission: Submission, submitted: Submitted) -> None:
    if submitted.replayed:
        return
    farm.metrics.images.labels("hit").inc(submitted.hits)
    farm.metrics.images.labels("attached").inc(submitted.attached)
    farm.metrics.images.labels("new").inc(submitted.made)
    farm.metrics.saved_seconds.labels("hit").inc(sum(map(_made_in_s, submitted.job.images)))
    each_s = submission.orders[0].cost_s  # they differ by their seeds alone
    farm.metrics.saved_seconds.labels("attached").inc(submitted.attached * each_s)


def _made_in_s(image: JobImage) -> float:
    """Device seconds that its picture took when it was made; 0 where it was not there yet."""
    result = image.render.result if image.cached else None
    return device_seconds(result.timings_s) if result else 0.0
