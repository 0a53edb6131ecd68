"""The JobStore port: the one place where jobs, renders, leases and order are decided.

Every method is one atomic step and may be repeated: with the same ids and token it has the same
effect once. Every method raises StoreUnavailable when the store does not answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from shared.events import Event
from shared.jobs import Job
from shared.store.outbox import Outbox
from shared.store.queries import Backlog, Forecast, JobPage, JobQuery, Owned
from shared.store.values import (
    Cause,
    Claim,
    Delayed,
    Hold,
    Moved,
    Outcome,
    Owed,
    Poison,
    Pulse,
    Spent,
    Standing,
    Stats,
    StoreFault,
    Submission,
    Submitted,
    WorkerStatus,
)


class JobStore(Outbox, Protocol):
    # the API's side
    def submit(self, submission: Submission) -> Submitted:
        """Take the whole job in one step: replay, cache, single-flight, pending, tickets, record.

        When it returns the job is as safe as the store was told to make it. Raises QueueFull,
        RateExceeded and QuotaExceeded by the limits of the submission, InvalidOrder where these
        could never allow it, NotStored, IdempotencyConflict, and NotDurable: it may have been taken, but nobody promises that it
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

    # the API's side, for many jobs and for their end
    def jobs(self, query: JobQuery) -> JobPage:
        """A page of jobs, each as one moment sees it.

        Those that are no longer remembered are left out. O(limit + log n) as a rule, and never more
        than `LOOK_MOST` jobs: a page of rare ones may be short, or empty, with more to come.
        """

    def foresee(self, submission: Submission) -> Forecast:
        """What this order would meet if it came now; nothing changes. O(n log queued)."""

    def backlog(self, pools: Sequence[str], owner: str | None = None) -> Backlog:
        """How much waits and runs in these pools, and on whose account; None: on everybody's.

        `work_s` of a pool is exact up to 32 pending renders, then from a sample of 32; `oldest_at`
        is the oldest of the next 64. O(owners + leases).
        """

    def disown(self, job_id: str) -> tuple[Owned, ...]:
        """Answer nobody new with the pictures that only this job has, so that they can be deleted.

        Raises JobNotFound, JobNotFinished.
        """

    def delete(self, job_id: str) -> None:
        """Forget a finished job, its idempotency key, and renders that no other job refers to.

        Nothing happens where there is no such job. Raises JobNotFinished.
        """

    # the API's side, for those who follow
    def events(self, job_id: str, after: str | None) -> list[Event] | None:
        """What happened to the job after this event, or at all; the oldest first.

        None: `after` is no event of this job.
        """

    def pulse(self, job_ids: Sequence[str]) -> dict[str, Pulse]:
        """How far these jobs are, for a fraction of what `get` costs; one that is gone is left out."""

    # the API's side, for clients that wait on an open connection: see `values.Attendance`
    def attend(self, job_id: str, client: str, gone_s: float) -> None:
        """The client still waits: hold the job for `gone_s` more, if it is held by clients at all."""

    def depart(self, job_id: str, client: str, gone_s: float) -> None:
        """The client has left: in `gone_s` what is queued is canceled, unless one comes back."""

    def abandon(self, job_id: str, client: str) -> Job:
        """The client gives up. If it was the last that held the job, queued images are canceled.

        What runs goes on. If that stopped any, its idempotency key is free again. Raises JobNotFound.
        """

    def note(self, owner: str, name: str, value: str) -> None:
        """Remember one thing about an owner, such as the model chosen in the A1111 dialect."""

    def notes(self, owner: str) -> dict[str, str]:
        """All that is remembered about an owner."""

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
        outcome: Outcome,
        *,
        found: bool = False,
        device_s: float = 0.0,
    ) -> bool | Delayed:
        """End the render: a result, a failure, or None for canceled. False: the lease is lost.

        A verdict ends it well, and answers nobody: it stored nothing.
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

    def revoke(self, token: str, *, cause: Cause = "worker_lost", detail: str = "") -> str | None:
        """Give back, as lost, what the claim of this token got; the render, or None: it holds none.

        A claim that was sent and not executed yet will get nothing.
        """

    def preview(self, render_id: str, token: str, number: int, picture: bytes) -> None:
        """Show a half-made PNG or JPEG to those who listen and ordered more than `number` of them.

        `number` counts from 0. Nobody hears of it where the lease is lost.
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

    def unattended(self) -> Moved:
        """`abandon` jobs whose client left, or was cut off with its API process, too long ago."""

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

    def results_in_use(self, but: Collection[str] = ()) -> set[str]:
        """Tokens of all pictures that a remembered render, none of `but`, refers to; O(renders)."""

    def inputs_in_use(self) -> set[str]:
        """Input pictures, by SHA-256, that a remembered render starts from; O(renders)."""

    def drain(self, name: str) -> None:
        """Order the worker to take no more renders and leave; it stands until it is lifted."""

    def lift(self, name: str) -> bool:
        """Lift the order to drain, and the quarantine. False: there was neither."""

    # everybody's
    def workers(self) -> list[WorkerStatus]:
        """Every worker heard of within an hour, by name."""

    def stats(self) -> Stats: ...

    def spent(self, top: int) -> Spent:
        """Who got how much device time today, the `top` owners by name. O(owners of today)."""

    def owed(self) -> dict[str, Owed]:
        """What each owner has queued. He pays whose flow the render is in: who ordered it first, or
        who was nearer to the head of the queue since. O(owners).
        """

    def secret(self, name: str, proposal: str) -> str:
        """The farm's secret of this name: `proposal` if there is none yet."""

    def faults(self) -> tuple[StoreFault, ...]:
        """What makes this store lose acknowledged jobs, the worst first; empty when all is well."""

    def ping(self) -> None: ...
