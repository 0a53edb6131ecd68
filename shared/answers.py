"""The shape of a job as its client sees it. Every key is always there."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shared.jobs import Failure, JobStatus, RenderState


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class StepsView(View):
    step: int
    steps: int


class ImageView(View):
    """One image. `bytes` and `sha256` are the stored PNG's, whatever the URL's format."""

    index: int
    seed: int
    status: RenderState
    fingerprint: str
    cached: bool
    attempt: int
    progress: StepsView
    url: str | None
    content_type: str | None
    bytes: int | None
    sha256: str | None
    width: int
    height: int
    error: Failure | None


class ProgressView(View):
    images_done: int
    images: int
    fraction: float


class MetricsView(View):
    """Seconds: waiting, from the first start, and on the device for this job's images."""

    queue_s: float | None
    run_s: float | None
    gpu_s: float


class UrlsView(View):
    self: str
    events: str
    result: str
    cancel: str


class JobView(View):
    """A job. Clients stop asking at `done`."""

    model_config = ConfigDict(frozen=True, title="Job")

    id: str
    object: Literal["job"] = "job"
    status: JobStatus
    done: bool
    cached: bool
    owner: str
    input: dict[str, Any]
    cache: str
    priority: str
    metadata: dict[str, str]
    webhook: None = None
    retries: str | None
    images: list[ImageView]
    queue_position: int | None
    eta_s: float | None
    progress: ProgressView
    error: Failure | None
    metrics: MetricsView
    created_at: str
    started_at: str | None
    finished_at: str | None
    deadline_at: str | None
    cancel_requested_at: str | None
    expires_at: str | None
    urls: UrlsView


class JobPageView(View):
    """Jobs, and where the pages beside this one begin."""

    object: Literal["list"] = "list"
    data: list[JobView]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ForeseenView(View):
    index: int
    seed: int
    fingerprint: str
    cached: bool


class EstimateView(View):
    """What an order would meet now. `gpu_s`: predicted device seconds of what is not stored."""

    model_config = ConfigDict(frozen=True, title="Estimate")

    object: Literal["estimate"] = "estimate"
    input: dict[str, Any]
    images: list[ForeseenView]
    gpu_s: float
    queue_position: int | None
    eta_s: float | None
    workers_ready: int
