"""What a running farm was asked lately, and how long its images took: the load of `renderfarm plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean

from renderfarm_client import Client, Job, Refused
from shared.errors import FarmError
from shared.queueing import Load

FEWEST_JOBS = 10


class TooLittleSeen(FarmError):
    """The farm has seen too few jobs to plan by: order more, or describe the load with options."""


@dataclass(slots=True, frozen=True)
class Observed:
    """`span_s`: from the first job that was looked at to the last. `image_bytes`: mean of a picture."""

    load: Load
    jobs: int
    span_s: float
    image_bytes: float


def observe(farm: Client, model: str | None, most: int) -> Observed:
    """From the latest jobs, of everybody where the key is an admin's. Raises TooLittleSeen."""
    try:
        jobs = list(farm.list(model=model, owner="*", limit=most))
    except Refused as refused:
        if refused.status != 403:
            raise
        jobs = list(farm.list(model=model, limit=most))
    return summed_up(jobs)


def summed_up(jobs: Sequence[Job]) -> Observed:
    """`image_s` has one entry for each image that was rendered. Raises TooLittleSeen."""
    came = sorted(datetime.fromisoformat(job.created_at) for job in jobs if job.created_at)
    span_s = (came[-1] - came[0]).total_seconds() if came else 0.0
    image_s = tuple(seconds for job in jobs for seconds in _image_s(job))
    sizes = [image.size_bytes for job in jobs for image in job.images if image.size_bytes]
    if len(came) < FEWEST_JOBS or not span_s or not image_s:
        raise TooLittleSeen
    load = Load(
        jobs_per_hour=(len(came) - 1) / span_s * 3600,
        images=tuple(len(job.images) for job in jobs),
        image_s=image_s,
        cached_share=sum(job.cached for job in jobs) / len(jobs),
    )
    return Observed(load, len(jobs), span_s, fmean(sizes or [0]))


def _image_s(job: Job) -> list[float]:
    """A job tells the sum of its images; they are alike but for their seeds."""
    rendered = sum(not image.cached for image in job.images)
    spent_s = job.metrics.gpu_s if job.metrics else 0.0
    return [spent_s / rendered] * rendered if job.status == "succeeded" and spent_s else []
