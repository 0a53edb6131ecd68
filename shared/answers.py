"""The shape of a job as its client sees it. Every key is always there."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shared.jobs import Failure, JobStatus, RenderState, WebhookEvent


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class StepsView(View):
    step: int
    steps: int


class VerifyView(View):
    """`max_abs_diff`: of any sample, 0 to 255. `sha256`: of the PNG that would have been stored."""

    identical: bool
    max_abs_diff: int
    psnr_db: float | None
    sha256: str


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
    verify: VerifyView | None


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


class WebhookView(View):
    url: str
    events: list[WebhookEvent]


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
    webhook: WebhookView | None
    retries: str | None
    verifies: str | None
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


class CrewView(View):
    ready: int
    busy: int
    loading: int


class ModelQueueView(View):
    """`queued` holds what pauses before a retry too. `backlog_gpu_s`: predicted device seconds of what
    waits, by the measured rate. `eta_s`: until all of it has been started; null if unknown."""

    model: str
    queued: int
    running: int
    storing: int
    workers: CrewView
    oldest_queued_s: float | None
    backlog_gpu_s: float
    eta_s: float | None


class MineView(View):
    """The caller's renders, and how many of them may wait; null: no limit."""

    queued: int
    running: int
    max_queued: int | None


class OwnerQueueView(View):
    owner: str
    queued: int
    running: int


class QueueView(View):
    """What waits. `owners` and `poison` are for admins, else null."""

    model_config = ConfigDict(frozen=True, title="Queue")

    models: list[ModelQueueView]
    mine: MineView
    owners: list[OwnerQueueView] | None
    poison: int | None
