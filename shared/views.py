"""From a job to what its client sees. Times are RFC 3339, UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from shared.answers import (
    ImageView,
    JobView,
    MetricsView,
    ProgressView,
    StepsView,
    UrlsView,
    VerifyView,
    WebhookView,
)
from shared.eta import Crew, eta_s, steps_done
from shared.fingerprint import pure
from shared.jobs import FINAL, Job, JobImage, RenderState, device_seconds
from shared.links import CONTENT_TYPES, Links

NOBODY = Crew()
_VERDICT = set(VerifyView.model_fields)


def job_view(
    job: Job, links: Links, *, now: float, retention_s: float, crew: Crew = NOBODY
) -> JobView:
    """`now` in unix seconds; `crew` serves its pool. Raises StoreUnavailable where the signing secret is not known yet."""
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
        webhook=job.webhook and WebhookView(url=job.webhook.url, events=list(job.webhook.events)),
        retries=job.retries,
        verifies=job.verifies,
        images=[image_view(job, image, links) for image in job.images],
        queue_position=min(waiting, default=None),
        eta_s=eta_s(job, crew, now),
        progress=_progress(job),
        error=next((i.render.error for i in job.images if i.status is RenderState.failed), None),
        metrics=_metrics(job, started, now if finished is None else finished),
        created_at=rfc3339(job.created_at),
        started_at=_time(started),
        finished_at=_time(finished),
        deadline_at=_time(job.deadline_at),
        cancel_requested_at=_time(job.cancel_requested_at),
        expires_at=_time(None if finished is None else finished + retention_s),
        urls=UrlsView(
            self=here, events=links.events(job.id), result=f"{here}/result", cancel=f"{here}/cancel"
        ),
    )


def rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)


def image_view(job: Job, image: JobImage, links: Links) -> ImageView:
    """Raises StoreUnavailable as `job_view` does."""
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
        progress=StepsView(step=steps_done(image), steps=render.spec.steps_to_run),
        url=links.file(job.id, image.index, kind) if stored else None,
        content_type=CONTENT_TYPES[kind] if stored else None,
        bytes=stored and stored.size_bytes,
        sha256=stored and stored.sha256,
        width=render.spec.width,
        height=render.spec.height,
        error=render.error if image.status is RenderState.failed else None,
        verify=VerifyView(**render.verdict.model_dump(include=_VERDICT))
        if render.verdict
        else None,
    )


def _progress(job: Job) -> ProgressView:
    parts = [
        1.0 if i.status in FINAL else steps_done(i) / i.render.spec.steps_to_run for i in job.images
    ]
    return ProgressView(
        images_done=sum(image.status in FINAL for image in job.images),
        images=len(parts),
        fraction=round(sum(parts) / len(parts), 2) if parts else 0.0,
    )


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
    made = [i.render.result or i.render.verdict for i in job.images if not i.cached]
    spent = sum(device_seconds(m.timings_s) for m in made if m)
    if started is None:
        return MetricsView(queue_s=None, run_s=None, gpu_s=round(spent, 3))
    return MetricsView(
        queue_s=round(started - job.created_at, 3),
        run_s=round(max(0.0, until - started), 1),
        gpu_s=round(spent, 3),
    )
