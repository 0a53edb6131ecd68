"""The values that cross the JobStore port: orders in, claims, standings and counts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shared.jobs import (
    Failure,
    Job,
    JobImage,
    Record,
    RenderSpec,
    StoredResult,
    TraceContext,
    Verdict,
)

WEIGHTS = {"high": 4.0, "normal": 1.0, "low": 0.25}
Hold = Literal["held", "cancel", "lost"]
# Why a worker died, as far as anybody knows; `worker_lost` is all that is left to say.
Cause = Literal["worker_lost", "container_memory", "device_fault", "deaf", "unwell"]
WINDOW_S = 60  # of the limit on orders
PACE_S = 60  # the speed of a queue is a mean over about so long
ATTACH_S = 120.0  # so long a repeated request is answered with a job that has succeeded
UNWELL_S = 3600  # how long it is remembered that a worker left because it was unwell


# How a render ends: with a picture, a comparison, a failure, or canceled.
Outcome = StoredResult | Verdict | Failure | None


@dataclass(slots=True, frozen=True)
class Order:
    """One image that a job asks for. `render_id` names the render if a new one is needed."""

    render_id: str
    fingerprint: str
    spec: RenderSpec
    cost_s: float  # predicted device seconds
    against: StoredResult | None = None  # compare with this, and store nothing


@dataclass(slots=True, frozen=True)
class Attendance:
    """A client that waits for its answer on an open connection, and may be cut off.

    `client` names this wait; `gone_s` after it was last heard of, what is still queued is canceled.
    `repeats`: the client says that it asks again, so a job of the same `body` (a hash) is its answer.
    """

    client: str
    gone_s: float
    body: str
    repeats: bool = False


@dataclass(slots=True, frozen=True)
class OwnerLimits:
    """What one owner may order; 0: no limit. Only what is queued counts, not what runs."""

    submits_per_min: int = 0
    max_queued: int = 0  # renders
    max_queued_gpu_s: float = 0.0  # predicted


NO_LIMITS = OwnerLimits()


@dataclass(slots=True, frozen=True)
class Submission:
    """A job without images, and what to make for it; `idempotency` is (key, hash of the body).

    The store stamps its own clock: `created_at` is replaced, a deadline keeps its distance to it.
    `weight` is the owner's, and multiplies that of the priority.
    """

    job: Job
    orders: Sequence[Order]
    idempotency: tuple[str, str] | None = None
    attendance: Attendance | None = None
    stored_only: bool = False  # refuse it unless every picture is stored already
    limits: OwnerLimits = NO_LIMITS
    weight: float = 1.0


@dataclass(slots=True, frozen=True)
class Rate:
    """An owner's orders of a minute: how many are left, and seconds until all are there again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True, frozen=True)
class Owed:
    """What an owner has queued: renders, and their predicted device seconds."""

    renders: int = 0
    gpu_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Submitted:
    job: Job
    replayed: bool = False
    hits: int = 0  # images that were stored already
    attached: int = 0  # images that another job is waiting for too
    made: int = 0  # new renders
    rate: Rate | None = None  # None: no limit


@dataclass(slots=True, frozen=True)
class Claim:
    """A leased render. `token` fences every later write; `fresh`: do not look for a stored result."""

    render_id: str
    token: str
    fingerprint: str
    spec: RenderSpec
    attempt: int
    fresh: bool
    jobs: tuple[str, ...]
    worker: str
    queued_at: float
    claimed_at: float
    against: StoredResult | None = None  # compare with this, and store nothing
    previews: int = 0  # how many half-made pictures somebody ordered
    traces: tuple[TraceContext, ...] = ()  # those of its jobs, the oldest job's first

    @property
    def who(self) -> dict[str, str | int]:
        """What every log line about this claim carries."""
        jobs = ",".join(self.jobs)
        return {
            "job": jobs,
            "render": self.render_id,
            "worker": self.worker,
            "attempt": self.attempt,
        }


@dataclass(slots=True, frozen=True)
class Moved:
    """What a chore changed, for its log line: render ids; job ids for `expired`, `abandoned`."""

    requeued: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()
    abandoned: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Poison:
    """A render that took down its worker too often; `jobs` are those that failed with it."""

    render_id: str
    fingerprint: str
    spec: RenderSpec
    jobs: tuple[str, ...]
    owners: tuple[str, ...]
    attempts: int
    losses: int
    failed_at: float  # unix seconds
    error: Failure


@dataclass(slots=True, frozen=True)
class Delayed:
    """A fault that may pass: the render waits `pause_s` seconds, then takes its old place."""

    number: int  # 1 = the first
    pause_s: float


@dataclass(slots=True, frozen=True)
class Place:
    """Where a render stands in its pool's queue. Work is in predicted device seconds."""

    pool: str
    position: int  # 0 = next
    ahead_s: float  # of the renders before it
    own_s: float
    rate: float | None  # measured / predicted; None: nothing measured yet


def place_of(image: JobImage) -> Place | None:
    """Only the last queued image of a job has one."""
    render = image.render
    if image.position is None or image.ahead_s is None:
        return None
    return Place(render.pool, image.position, image.ahead_s, render.cost_s, image.rate)


@dataclass(slots=True, frozen=True)
class Pulse:
    """How far a job is: stored events, unfinished images, rank of its first pending image."""

    events: int
    open: int
    position: int | None


class LoadingStep(Record):
    name: str
    status: Literal["waiting", "running", "done", "skipped", "failed"]
    seconds: float | None = None


@dataclass(slots=True, frozen=True)
class Standing:
    """What the farm wants of a worker: its heartbeat is answered with this."""

    drain: bool = False  # an operator wants it to take no render, until the order is lifted
    unwell: int = 0  # how often workers of this name left as unwell within `UNWELL_S`


class Death(Record):
    cause: Cause
    at: float  # unix seconds


class Gpu(Record):
    """A worker's device, and the memory that the tensors of its process take there, MiB.

    `utilization`: percent of the last moment in which it computed; None where the driver is silent.
    """

    name: str
    utilization: int | None = None
    memory_used_mb: int
    memory_peak_mb: int
    memory_total_mb: int
    memory_reserved_mb: int | None = None  # what the allocator took from the card


class WorkerStatus(Record):
    """One worker's heartbeat. `steps` are the loading steps reached; `note` explains the state.
    `placement` is what its entry's profile came to; "" until it is chosen. `load_s` is the whole
    cold start, imports and what lies between the steps too; None until it is over.

    `holding` (renders that it leases) and `last_death` are the store's own knowledge.
    """

    name: str
    pool: str
    model: str
    state: Literal["loading", "ready", "busy", "draining", "quarantined", "failed", "lost"]
    device: str = ""
    placement: str = ""
    pid: int = 0
    host: str = ""
    started_at: float = 0.0  # when the process did, unix seconds by its own clock
    render: str | None = None
    steps: tuple[LoadingStep, ...] = ()
    load_s: float | None = None
    error: str | None = None
    note: str | None = None
    gpu: Gpu | None = None
    holding: int = 0
    last_death: Death | None = None
    last_seen_at: float = 0.0


class PoolStats(Record):
    pool: str
    pending: int
    delayed: int = 0  # in the pause after a fault, so not pending
    tickets: int
    rate: float | None = None  # measured / predicted device seconds; None: nothing measured yet


class Stats(Record):
    """Read at scrape time. `totals` counts since the store was made: succeeded, failed, lost, ...

    `deaths` counts workers by cause; `worked_s`: device seconds that went into pictures, by pool.
    `max_bytes`: 0 is no limit. `reaped_at`: when the reaper came last, unix seconds; 0: never.
    """

    pools: tuple[PoolStats, ...] = ()
    leases: int = 0
    totals: dict[str, int] = {}
    deaths: dict[str, int] = {}
    worked_s: dict[str, float] = {}
    poisoned: int = 0
    reaped_at: float = 0.0
    used_bytes: int = 0
    max_bytes: int = 0


@dataclass(slots=True, frozen=True)
class Spent:
    """Device seconds that went into pictures today (UTC): of all owners, and of the `top` ones."""

    all_s: float = 0.0
    top_s: Mapping[str, float] = field(default_factory=dict)  # the largest first


class StoreFault(Record):
    """Why the store may lose, or not take, what it was given; `advice` is for its operator."""

    code: Literal[
        "cluster", "too_old", "replica", "no_aof", "write_failed", "evicts", "nearly_full",
        "no_promise",
    ]  # fmt: skip
    reason: str
    advice: str
