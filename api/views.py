"""From a job to what its client sees. Times are RFC 3339, UTC."""

from __future__ import annotations

import hashlib
import math
import time
from datetime import UTC, datetime

from fastapi import Request
from fastapi.responses import Response

from api.answers import ImageView, JobView, MetricsView, ProgressView, StepsView, UrlsView
from api.farm import Farm
from api.links import Links
from api.negotiation import unchanged
from shared.fingerprint import pure
from shared.images import Format
from shared.jobs import FINAL, OPEN, Job, JobImage, RenderState

CONTENT_TYPES: dict[Format, str] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
_ON_DEVICE = ("text", "denoise", "decode")


def shown(request: Request, farm: Farm, job: Job, status: int, headers: dict[str, str]) -> Response:
    """The Job, with a weak ETag of its body; 304 where the client has just this."""
    view = job_view(
        job,
        farm.links(request),
        now=time.time(),
        retention_s=farm.settings.job_retention_s,
    )
    body = view.model_dump_json().encode()
    headers["ETag"] = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    if not view.done:
        headers["Retry-After"] = str(retry_after_s(view))
    if request.method != "POST" and status == 200 and unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, status, headers, "application/json")


def job_view(job: Job, links: Links, *, now: float, retention_s: float) -> JobView:
    """`now` in unix seconds. Raises StoreUnavailable where the signing secret is not known yet."""
    started, finished = _started_at(job), _finished_at(job)
    waiting = [i.position for i in job.images if i.position is not None]
    here = links.job(job.id)
    return JobView(
        id=job.id,
        status=job.status,
        done=job.done,
        cached=all(image.cached for image in job.images),
        owner=job.owner,
        input=job.input,
        cache=job.cache,
        priority=job.priority,
        metadata=job.metadata,
        retries=job.retries,
        images=[_image(job, image, links) for image in job.images],
        queue_position=min(waiting, default=None),
        eta_s=_eta_s(job, now),
        progress=_progress(job),
        error=next((i.render.error for i in job.images if i.status is RenderState.failed), None),
        metrics=_metrics(job, started, now if finished is None else finished),
        created_at=rfc3339(job.created_at),
        started_at=_time(started),
        finished_at=_time(finished),
        deadline_at=_time(job.deadline_at),
        cancel_requested_at=_time(job.cancel_requested_at),
        expires_at=_time(None if finished is None else finished + retention_s),
        urls=UrlsView(self=here, events=None, result=f"{here}/result", cancel=f"{here}/cancel"),
    )


def retry_after_s(view: JobView) -> int:
    """When to ask again: 1..10 s."""
    guess = view.eta_s if view.eta_s is not None else (view.queue_position or 0) + 1
    return max(1, min(10, math.ceil(guess)))


def rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)


def _image(job: Job, image: JobImage, links: Links) -> ImageView:
    render = image.render
    stored = render.result if image.status is RenderState.succeeded else None
    kind = job.input["output_format"]
    return ImageView(
        index=image.index,
        seed=render.spec.seed,
        status=image.status,
        fingerprint=pure(render.fingerprint),
        cached=image.cached,
        attempt=render.attempt,
        progress=StepsView(step=_step(image), steps=render.spec.steps),
        url=links.file(job.id, image.index, kind) if stored else None,
        content_type=CONTENT_TYPES[kind] if stored else None,
        bytes=stored and stored.size_bytes,
        sha256=stored and stored.sha256,
        width=render.spec.width,
        height=render.spec.height,
        error=render.error if image.status is RenderState.failed else None,
    )


def _step(image: JobImage) -> int:
    """Steps done; the last of them are not reported once the picture is being stored."""
    finished = image.status in (RenderState.storing, RenderState.succeeded)
    return image.render.spec.steps if finished else image.render.step


def _progress(job: Job) -> ProgressView:
    parts = [1.0 if i.status in FINAL else _step(i) / i.render.spec.steps for i in job.images]
    return ProgressView(
        images_done=sum(image.status in FINAL for image in job.images),
        images=len(parts),
        fraction=round(sum(parts) / len(parts), 2) if parts else 0.0,
    )


def _eta_s(job: Job, now: float) -> float | None:
    """Seconds until the slowest image is done, at the pace of its own steps so far.

    None while any image waits or has not made a step: its pace would be a guess.
    """
    left = [_left_s(image, now) for image in job.images if image.status in OPEN]
    known = [seconds for seconds in left if seconds is not None]
    return round(max(known), 1) if known and len(known) == len(left) else None


def _left_s(image: JobImage, now: float) -> float | None:
    render, step = image.render, _step(image)
    if image.status is RenderState.queued or not step or render.started_at is None:
        return None
    return max(0.0, now - render.started_at) / step * (render.spec.steps - step)


def _started_at(job: Job) -> float | None:
    """When its first image that was not stored already started; not before the job came."""
    starts = [i.render.started_at for i in job.images if not i.cached]
    first = min((s for s in starts if s is not None), default=None)
    return None if first is None else max(first, job.created_at)


def _finished_at(job: Job) -> float | None:
    if not job.done:
        return None
    ends = [i.finished_at for i in job.images if i.finished_at is not None]
    return max([job.created_at, *ends])


def _metrics(job: Job, started: float | None, until: float) -> MetricsView:
    results = [i.render.result for i in job.images if i.render.result and not i.cached]
    spent = sum(r.timings_s.get(part, 0.0) for r in results for part in _ON_DEVICE)
    if started is None:
        return MetricsView(queue_s=None, run_s=None, gpu_s=round(spent, 3))
    return MetricsView(
        queue_s=round(started - job.created_at, 3),
        run_s=round(max(0.0, until - started), 1),
        gpu_s=round(spent, 3),
    )
