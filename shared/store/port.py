"""The JobStore port: the one place where jobs, renders, leases and order are decided.

Every method is one atomic step and may be repeated: with the same ids and token it has the same
effect once. Every method raises StoreUnavailable when the store does not answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from shared.jobs import Failure, Job, Record, RenderSpec, StoredResult

WEIGHTS = {"high": 4.0, "normal": 1.0, "low": 0.25}
Hold = Literal["held", "cancel", "lost"]
# Why a worker died, as far as anybody knows; `worker_lost` is all that is left to say.
Cause = Literal["worker_lost", "container_memory", "device_fault", "deaf", "unwell"]
UNWELL_S = 3600  # how long it is remembered that a worker left because it was unwell


@dataclass(slots=True, frozen=True)
class Order:
    """One image that a job asks for. `render_id` names the render if a new one is needed."""

    render_id: str
    fingerprint: str
    spec: RenderSpec
    cost_s: float  # predicted device seconds


@dataclass(slots=True, frozen=True)
class Submission:
    """A job without images, and what to make for it; `idempotency` is (key, hash of the body).

    The store stamps its own clock: `created_at` is replaced, a deadline keeps its distance to it.
    """

    job: Job
    orders: Sequence[Order]
    idempotency: tuple[str, str] | None = None


@dataclass(slots=True, frozen=True)
class Submitted:
    job: Job
    replayed: bool = False
    hits: int = 0  # images that were stored already
    attached: int = 0  # images that another job is waiting for too
    made: int = 0  # new renders


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
    """What a chore changed, for its log line: render ids, or job ids for `expired`."""

    requeued: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()


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
    """A worker's device, and the memory that the tensors of its process take there, MiB."""

    name: str
    memory_used_mb: int
    memory_peak_mb: int
    memory_total_mb: int


class WorkerStatus(Record):
    """One worker's heartbeat. `steps` are the loading steps reached; `note` explains the state.

    `holding` (renders that it leases) and `last_death` are the store's own knowledge.
    """

    name: str
    pool: str
    model: str
    state: Literal["loading", "ready", "busy", "draining", "quarantined", "failed", "lost"]
    device: str = ""
    pid: int = 0
    host: str = ""
    render: str | None = None
    steps: tuple[LoadingStep, ...] = ()
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
    """Read at scrape time. `totals` counts since the store was made: succeeded, failed, lost, ..."""

    pools: tuple[PoolStats, ...] = ()
    leases: int = 0
    totals: dict[str, int] = {}


class StoreFault(Record):
    """Why the store may lose, or not take, what it was given; `advice` is for its operator."""

    code: Literal[
        "cluster", "too_old", "replica", "no_aof", "write_failed", "evicts", "nearly_full",
        "no_promise",
    ]  # fmt: skip
    reason: str
    advice: str


class JobStore(Protocol):
    # the API's side
    def submit(self, submission: Submission) -> Submitted:
        """Take the whole job in one step: replay, cache, single-flight, pending, tickets, record.

        When it returns the job is as safe as the store was told to make it. Raises QueueFull,
        IdempotencyConflict, and NotDurable: it may have been taken, but nobody promises that it
        stays; the same order with the same idempotency key is safe. O(n log queued).
        """

    def get(self, job_id: str) -> Job:
        """The job, its renders and their queue positions at one moment. Raises JobNotFound."""

    def cancel(self, job_id: str) -> Job:
        """Stop waiting for its unfinished images; renders that nobody else wants end.

        Raises JobNotFound, JobFinished (it had finished before anybody asked to cancel it).
        """

    def forget(self, fingerprint: str, render_id: str) -> None:
        """The picture of this render is gone: answer nobody from it any more."""

    # the worker's side
    def claim(self, pool: str, token: str, slot: str, worker: str, lease_s: float) -> Claim | None:
        """Lease the pending render with the lowest start tag; None when nothing waits.

        The same token gets the same render again while it still holds it. O(log n).
        Source: start-time fair queueing, Goyal, Vin and Cheng, SIGCOMM 1996.
        """

    def renew(self, steps: Mapping[str, tuple[str, int]], lease_s: float) -> dict[str, Hold]:
        """Extend leases and report progress: {token: (render id, step)} -> {token: its standing}."""

    def storing(self, render_id: str, token: str, step: int) -> bool:
        """All steps are done and the device is free. False: the lease is lost."""

    def close(
        self,
        render_id: str,
        token: str,
        outcome: StoredResult | Failure | None,
        *,
        found: bool = False,
        device_s: float = 0.0,
    ) -> bool | Delayed:
        """End the render: a result, a failure, or None for canceled. False: the lease is lost.

        A result that is not `exact` ends its jobs well and answers no later order. The answer is
        Delayed to a retryable failure while the render's budget lasts; one that nobody wants any
        more is canceled. `found`: the result was stored before. `device_s` corrects later cost
        predictions.
        """

    def release(
        self,
        render_id: str,
        token: str,
        *,
        lost: bool,
        cause: Cause = "worker_lost",
        detail: str = "",
    ) -> bool:
        """Give the render back to its old place in the queue. False: the lease was lost already.

        `lost`: its worker died, of `cause`; `detail` says it in words for a client. The last
        allowed loss fails the render as `worker_lost`, or as `container_memory` for that cause.
        """

    def adopt(self, slot: str) -> Moved:
        """Give back, as lost, what an earlier process on this slot still holds."""

    def died(self, slot: str, cause: Cause) -> None:
        """Remember why the worker of this slot ended, whether it held a render or not."""

    def unwell(self, slot: str, token: str) -> None:
        """Remember that a worker of this slot leaves because it is unwell; once for one token."""

    def heartbeat(self, status: WorkerStatus, ttl_s: float) -> Standing:
        """Say that the worker lives, hear what is wanted. Silent for `ttl_s`, it shows as lost."""

    def leave(self, name: str) -> None:
        """The worker ended in order and is forgotten."""

    # the chores' side
    def reap(self) -> Moved:
        """Give back renders whose lease ran out."""

    def expire(self) -> Moved:
        """Drop images of jobs past their deadline that have not started."""

    def reconcile(self) -> int:
        """Bring back renders whose pause is over, and top up tickets; how many were added."""

    def audit(self) -> Moved:
        """Repair what only a damaged log of the store produces; O(renders)."""

    # the operator's side
    def poison(self) -> list[Poison]:
        """Renders that failed as `worker_lost`, oldest first, while their records last."""

    def drop_poison(self, render_id: str) -> bool:
        """Take a render off that list; False: it is not on it."""

    def condemn(self, fingerprint: str, token: str) -> bool:
        """Nobody may publish this stored picture any more: it is about to be deleted.

        False: an order is, or may soon be, answered with it. True says nothing of jobs that have it
        already: ask `results_in_use` afterwards.
        """

    def results_in_use(self) -> set[str]:
        """Tokens of all pictures that a remembered render refers to; O(renders)."""

    def drain(self, name: str) -> None:
        """Order the worker to take no more renders and leave; it stands until it is lifted."""

    def lift(self, name: str) -> bool:
        """Lift the order to drain, and the quarantine. False: there was neither."""

    # everybody's
    def workers(self) -> list[WorkerStatus]:
        """Every worker heard of within an hour, by name."""

    def stats(self) -> Stats: ...

    def secret(self, name: str, proposal: str) -> str:
        """The farm's secret of this name: `proposal` if there is none yet."""

    def faults(self) -> tuple[StoreFault, ...]:
        """What makes this store lose acknowledged jobs, the worst first; empty when all is well."""

    def ping(self) -> None: ...
