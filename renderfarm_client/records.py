"""What a farm answers, as values. Fields that a newer farm added are ignored.

Times are RFC 3339 texts in UTC, seconds end in `_s`, sides are pixels.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]
ImageStatus = Literal["queued", "running", "storing", "succeeded", "failed", "canceled"]


class Record(BaseModel):
    """Frozen, and open to newer farms."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Record):
    """Why an image failed. `retryable`: ordering it again may help."""

    code: str
    message: str
    retryable: bool = False


class Steps(Record):
    step: int
    steps: int


class Verdict(Record):
    """How a picture that was rendered again differs from the stored one; differences in 1/255."""

    identical: bool
    max_abs_diff: int | None = None
    psnr_db: float | None = None
    sha256: str | None = None


class Image(Record):
    """One image of a job. `url` opens without a key, for a while; each look has a fresh one."""

    index: int
    seed: int
    status: ImageStatus
    fingerprint: str | None = None
    cached: bool = False
    attempt: int = 0
    progress: Steps
    url: str | None = None
    content_type: str | None = None
    size_bytes: int | None = Field(None, alias="bytes")
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    error: Problem | None = None
    verify: Verdict | None = None


class Progress(Record):
    images_done: int
    images: int
    fraction: float


class Metrics(Record):
    queue_s: float | None = None
    run_s: float | None = None
    gpu_s: float = 0.0


class Job(Record):
    """A job, as it was when the farm was asked. `input` is resolved: defaults in, seed drawn."""

    id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # becomes part of a path and of a file's name
    status: JobStatus
    done: bool
    cached: bool
    owner: str | None = None
    input: dict[str, Any]
    cache: str = "use"
    priority: str = "normal"
    metadata: dict[str, str] = {}
    retries: str | None = None
    verifies: str | None = None
    images: tuple[Image, ...]
    queue_position: int | None = None
    eta_s: float | None = None
    progress: Progress | None = None
    error: Problem | None = None
    metrics: Metrics | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    deadline_at: str | None = None
    cancel_requested_at: str | None = None
    expires_at: str | None = None
    poll_s: float = Field(1.0, exclude=True)  # when the farm wants to be asked again


class JobPage(Record):
    data: tuple[Job, ...]
    last_id: str | None = None
    has_more: bool = False


class EstimatedImage(Record):
    index: int
    seed: int
    fingerprint: str
    cached: bool


class Estimate(Record):
    """What an order would cost: `gpu_s` in all, `eta_s` until done; None rather than a guess."""

    input: dict[str, Any]
    images: tuple[EstimatedImage, ...]
    gpu_s: float
    queue_position: int | None = None
    eta_s: float | None = None
    workers_ready: int = 0


class Event(Record):
    """One event of a job. `id` is None for those that pass, such as `image.progress`."""

    type: str
    id: str | None = None
    data: dict[str, Any]

    @property
    def job(self) -> Job | None:
        """The job, where the event carries one."""
        return Job.model_validate(self.data) if self.data.get("object") == "job" else None

    @property
    def final(self) -> bool:
        """Whether it is the last: the job is done."""
        return self.type in FINAL_EVENTS


FINAL_EVENTS = frozenset({"job.succeeded", "job.failed", "job.canceled", "job.expired"})


class Lora(Record):
    """An adapter that an order may name; `trigger`: words of a prompt that it was trained on."""

    name: str
    title: str = ""
    sha256: str = ""
    trigger: tuple[str, ...] = ()


class Model(Record):
    """A model that the farm serves; `random_weights`: never trained, whatever it draws is noise."""

    id: str
    title: str = ""
    default: bool = False
    aliases: tuple[str, ...] = ()
    engine: str = ""
    precision: str = ""
    t5: str = ""
    placement: str = ""
    defaults: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    skip_layers: tuple[int, ...] = ()
    loras: tuple[Lora, ...] = ()
    workers_ready: int = 0
    random_weights: bool = False


class Models(Record):
    data: tuple[Model, ...]


class QueueWorkers(Record):
    ready: int = 0
    busy: int = 0
    loading: int = 0


class QueueOfModel(Record):
    """One model's queue: renders by state, GPU-seconds of backlog, how long the oldest waits."""

    model: str
    queued: int
    running: int
    storing: int = 0
    workers: QueueWorkers = QueueWorkers()
    oldest_queued_s: float | None = None
    backlog_gpu_s: float | None = None
    eta_s: float | None = None


class Share(Record):
    queued: int
    running: int
    max_queued: int | None = None


class Queue(Record):
    models: tuple[QueueOfModel, ...]
    mine: Share | None = None


class LoadingStep(Record):
    name: str
    status: Literal["waiting", "running", "done", "skipped", "failed"]
    seconds: float | None = None


class WorkerStatus(Record):
    state: str
    steps: tuple[LoadingStep, ...] = ()
    load_s: float | None = None
    error: str | None = None


class ModelStatus(Record):
    id: str
    ready: bool
    workers: tuple[WorkerStatus, ...] = ()


class FarmStatus(Record):
    """How far the farm has come; `reason` says why it is not ready."""

    ready: bool
    reason: str | None = None
    models: tuple[ModelStatus, ...] = ()

    def model(self, name: str) -> ModelStatus:
        found = (model for model in self.models if model.id == name)
        return next(found, ModelStatus(id=name, ready=False))
