"""What a job and a render are: pure values, their states, and the legal moves.

A job is what a client ordered. A render makes one image of it; jobs that want the same image
share the render. A job's status is never stored: it is read off its renders (`job_status`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import FarmError

RECORD_VERSION = 1
SEEDS = 2**32  # a CPU generator keeps 32 bits of its seed


class RenderState(StrEnum):
    queued = "queued"
    running = "running"
    storing = "storing"
    succeeded = "succeeded"
    failed = "failed"
    canceled = "canceled"


class JobStatus(StrEnum):
    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    canceled = "canceled"
    expired = "expired"


Q, R, S = RenderState.queued, RenderState.running, RenderState.storing
OK, FAILED, CANCELED = RenderState.succeeded, RenderState.failed, RenderState.canceled

LEASED = frozenset({R, S})
FINAL = frozenset({OK, FAILED, CANCELED})
OPEN = frozenset(RenderState) - FINAL

# The one table of moves. Back to `queued` is a lost or returned lease, or a fault that may pass; queued -> failed is a render
# that took down its last worker; queued -> succeeded is a stored result found before rendering.
MOVES: dict[RenderState, frozenset[RenderState]] = {
    Q: frozenset({R, FAILED, CANCELED}),
    R: frozenset({Q, S, OK, FAILED, CANCELED}),
    S: frozenset({Q, OK, FAILED, CANCELED}),
    OK: frozenset(),
    FAILED: frozenset(),
    CANCELED: frozenset(),
}


class IllegalMove(FarmError):
    """A render cannot make this move."""


def move(old: RenderState, new: RenderState) -> RenderState:
    """The new state. Raises IllegalMove."""
    if new not in MOVES[old]:
        raise IllegalMove(f"a render cannot go from {old} to {new}")
    return new


class Record(BaseModel):
    """A stored value: frozen, and blind to fields that a newer version added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Passed(Record):
    """A stored value that is handed on, and so keeps the fields that a newer version added."""

    model_config = ConfigDict(extra="allow")


class LoraRef(Passed):
    name: str
    sha256: str
    scale: float


class RenderSpec(Passed):
    """Everything that decides the pixels of one image, and nothing else.

    `model_digest` stands for the weights and everything in the model entry that moves pixels.
    `guidance_scale` <= 1 means no guidance. `shift` is the scheduler's.
    """

    model: str
    model_digest: str
    prompt: str
    negative_prompt: str = ""
    width: int  # px
    height: int  # px
    steps: int
    guidance_scale: float
    shift: float
    seed: int = Field(ge=0, lt=SEEDS)
    loras: tuple[LoraRef, ...] = ()
    init_image_sha256: str | None = None
    mask_image_sha256: str | None = None
    strength: float | None = None
    # Later than the rest: a fingerprint leaves them out at these values.
    preset: Literal["exact", "balanced", "draft"] = "exact"
    skip_layer_guidance: float = 0.0  # the scale; 0: none

    INPUTS: ClassVar = ("init_image_sha256", "mask_image_sha256")

    @property
    def inputs(self) -> frozenset[str]:
        """The pictures it starts from, by SHA-256."""
        return frozenset(filter(None, (self.init_image_sha256, self.mask_image_sha256)))

    @property
    def mode(self) -> Literal["txt2img", "img2img", "inpaint"]:
        if self.init_image_sha256 is None:
            return "txt2img"
        return "inpaint" if self.mask_image_sha256 else "img2img"

    @property
    def steps_to_run(self) -> int:
        """From an input picture only the last part of the schedule runs, one step at least.

        Source: `get_timesteps` of diffusers' image-to-image pipelines.
        """
        if self.init_image_sha256 is None or self.strength is None:
            return self.steps
        return self.steps - min(int(self.steps - self.steps * self.strength), self.steps - 1)

    @property
    def pool(self) -> str:
        return pool_name(self.model, self.model_digest)

    @property
    def unknown(self) -> frozenset[str]:
        """Fields that only a newer version understands; they may decide pixels."""
        parts: tuple[Passed, ...] = (self, *self.loras)
        return frozenset(name for part in parts for name in part.model_extra or ())


def pool_name(model: str, digest: str) -> str:
    """The workers that may serve one another's renders: same model, same pixels.

    Names the pending set and the Celery queue, so that two versions of an entry never mix.
    """
    return f"{model}.{digest[:12]}"


class Effort(Passed):
    """What one render took of its device.

    `tflop`: of denoising (shared/flops.py); None where a preset leaves out what is not counted.
    `ceiling_share`: of the rate of large matrix products in the model's 16 or 32 bits, measured
    when it was loaded; arithmetic in 8 bits can exceed it. `step_s` is the median.
    """

    tflop: float | None = None
    tflop_per_s: float | None = None
    ceiling_share: float | None = None
    step_s: float | None = None
    slowest_step_s: float | None = None
    peak_memory_bytes: int | None = None  # of tensors on the card; None on a CPU
    prompts_remembered: int = 0
    prompts_encoded: int = 0


class StoredResult(Passed):
    """A complete picture in the result store; `token` names the claim that made it.

    Not `exact`: memory was short and a saving moved pixels, so no other order is answered with it.
    """

    fingerprint: str
    token: str
    content_type: str = "image/png"
    size_bytes: int
    sha256: str
    width: int
    height: int
    timings_s: dict[str, float] = {}
    profile: dict[str, str] = {}
    exact: bool = True
    effort: Effort | None = None
    stored_at: float  # unix seconds


def device_seconds(timings_s: Mapping[str, float]) -> float:
    """The phases of a render for which the device is taken."""
    return sum(timings_s.get(phase, 0.0) for phase in ("text", "denoise", "decode"))


class Verdict(Passed):
    """A render made again and compared with its stored picture, which stays as it is.

    `max_abs_diff`: the largest difference of any sample, 0 to 255. `psnr_db`: of the whole, 99 where
    nothing differs; None where the sizes do, or an older worker compared. `sha256` is that of the PNG that
    this render would have stored: it tells of another encoder or library too.
    """

    identical: bool
    max_abs_diff: int
    psnr_db: float | None = None
    sha256: str
    timings_s: dict[str, float] = {}
    profile: dict[str, str] = {}
    effort: Effort | None = None


class Failure(Passed):
    code: str
    message: str
    retryable: bool = False


class Render(Record):
    """One image in the making. Times are unix seconds by Redis' clock."""

    id: str
    fingerprint: str
    pool: str
    spec: RenderSpec
    cost_s: float = 0.0  # predicted device seconds
    state: RenderState
    attempt: int = 0
    losses: int = 0
    retries: int = 0
    last_loss: str | None = None  # why its last worker died
    step: int = 0
    worker: str | None = None
    queued_at: float
    started_at: float | None = None
    finished_at: float | None = None
    found: bool = False  # its picture was in the result store before anybody rendered it
    result: StoredResult | None = None
    against: StoredResult | None = None  # compare with this, and store nothing
    verdict: Verdict | None = None
    error: Failure | None = None  # the last one; the render may have gone on since
    version: int = RECORD_VERSION


Dropped = Literal["canceled", "expired"]


def as_left(render: Render, attempt: int, step: int, started_at: float | None) -> Render:
    """The render as it was when a job stopped waiting for it: what comes later is not this job's."""
    then = {"attempt": attempt, "step": step, "started_at": started_at}
    return render.model_copy(update={**then, "found": False, "result": None, "verdict": None})


class JobImage(Record):
    """A job's view of one render: `dropped` says that this job stopped waiting for it."""

    index: int
    render: Render
    cached: bool
    dropped: Dropped | None = None
    dropped_at: float | None = None
    position: int | None = None  # rank in the pool's queue, 0 = next
    rate: float | None = None  # measured / predicted device seconds; None: not open, or not known
    ahead_s: float | None = None  # predicted, of what is before it; of the job's last queued image

    @property
    def status(self) -> RenderState:
        return CANCELED if self.dropped else self.render.state

    @property
    def finished_at(self) -> float | None:
        return self.dropped_at if self.dropped else self.render.finished_at


WebhookEvent = Literal[
    "job.succeeded", "job.failed", "job.canceled", "job.expired", "job.running", "image.succeeded"
]


class Webhook(Record):
    """Whom to tell of a job, and what. `base`: how its client spells the farm's own URL."""

    url: str
    events: tuple[WebhookEvent, ...]
    lane: str  # the URL's origin
    base: str


class TraceContext(Record):
    """Where in a trace something happened, as W3C Trace Context writes it: `traceparent`, `tracestate`."""

    parent: str
    state: str = ""

    @property
    def trace_id(self) -> str:
        return self.parent.split("-")[1]


class Job(Record):
    """What a client ordered. `input` is resolved: defaults in, aliases folded, seed concrete."""

    id: str
    owner: str
    input: dict[str, Any]
    cache: Literal["use", "bypass"] = "use"
    priority: Literal["high", "normal", "low"] = "normal"
    metadata: dict[str, str] = {}
    webhook: Webhook | None = None
    retries: str | None = None  # the job that this one orders again
    verifies: str | None = None  # the job whose picture this one compares with
    trace: TraceContext | None = None  # of the request that ordered it
    created_at: float
    deadline_at: float | None = None
    cancel_requested_at: float | None = None
    images: tuple[JobImage, ...] = ()
    last_event: str | None = None  # id of its newest stored event when this was read
    version: int = RECORD_VERSION

    @property
    def status(self) -> JobStatus:
        return job_status(self.images)

    @property
    def done(self) -> bool:
        return self.status in JOB_FINAL


JOB_FINAL = frozenset(JobStatus) - {JobStatus.queued, JobStatus.running}


def job_status(images: tuple[JobImage, ...]) -> JobStatus:
    """The first that fits: nothing started, not finished, canceled, failed, expired, succeeded."""
    if any(image.status in OPEN for image in images):
        untouched = all(image.cached or image.status is Q for image in images)
        return JobStatus.queued if untouched else JobStatus.running
    if any(image.status is CANCELED and image.dropped != "expired" for image in images):
        return JobStatus.canceled
    if any(image.status is FAILED for image in images):
        return JobStatus.failed
    if any(image.dropped == "expired" for image in images):
        return JobStatus.expired
    return JobStatus.succeeded


def image_seed(seed: int, index: int) -> int:
    """The seed of image `index`: a seed alone reproduces an image, whatever n was."""
    return (seed + index) % SEEDS
