"""Webhooks in the job store: what waits to be delivered, what was tried, what signs it.

A delivery is put here by the same step that makes its event happen, so neither exists without the
other. It waits in the lane of its owner and receiver; lanes and owners take turns, and each has only
so many deliveries under way, so that a receiver that hangs holds up nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from shared.jobs import Record

OUTCOMES = ("delivered", "gone", "refused", "unreachable")  # of an attempt
State = Literal["waiting", "delivered", "failed", "gone"]
LANE_MOST, OWNER_MOST = 4, 16  # deliveries under way at one moment
LOG_MOST = 20  # attempts that are remembered of one delivery
OVERLAP_S = 86_400  # how long a secret still signs after it was replaced
SECRETS_MOST = 4  # sooner or later a header is too long


def delivery_id(job_id: str, name: str) -> str:
    """The same for every attempt, and without the dot that separates what is signed."""
    return f"msg_{job_id.removeprefix('job_')}_{name.replace('.', '_').replace(':', '_')}"


def event_of(name: str) -> tuple[str, int | None]:
    """A delivery's name is its event, with an image's index: `image.succeeded:2`."""
    event, _, index = name.partition(":")
    return event, int(index) if index else None


@dataclass(slots=True, frozen=True)
class Delivery:
    """One that is to be tried now. `token` fences what is written about this attempt."""

    job_id: str
    name: str
    owner: str
    lane: str  # the receiver's origin
    at: float  # when the event happened, unix seconds
    tries: int  # so far
    token: str
    body: str | None  # as it was sent first; None: not sent yet

    @property
    def id(self) -> str:
        return delivery_id(self.job_id, self.name)

    @property
    def event(self) -> str:
        return event_of(self.name)[0]


class Attempt(Record):
    """One try. `status` is the receiver's answer, `error` why there was none."""

    at: float = 0.0  # unix seconds, by the store's clock
    status: int | None = None
    error: str | None = None
    ms: int


def outcome(attempt: Attempt, state: State) -> str:
    """How an attempt is counted: `delivered`, `gone`, `refused` by its answer, or `unreachable`."""
    if state in ("delivered", "gone"):
        return state
    return "unreachable" if attempt.status is None else "refused"


class Delivered(Record):
    """What became of a delivery so far, oldest attempt first; `due_at`: when it is tried next."""

    job_id: str
    name: str
    state: State
    at: float
    tries: int
    due_at: float | None
    attempts: tuple[Attempt, ...] = ()

    @property
    def id(self) -> str:
        return delivery_id(self.job_id, self.name)


class OutboxStats(Record):
    """`late_s`: for how long the oldest delivery should have been tried already; 0: none is."""

    waiting: int = 0
    late_s: float = 0.0
    totals: dict[str, int] = {}  # attempts by outcome, since the store was made


class Outbox(Protocol):
    """The part of the job store that webhooks need. Every method raises StoreUnavailable."""

    def claim_deliveries(self, token: str, most: int, lease_s: float) -> list[Delivery]:
        """Deliveries that are due, for this caller alone until the lease ends; then they are again.

        The same token gets the same ones. O(log n) each.
        """

    def freeze_delivery(self, delivery: Delivery, body: str) -> str | None:
        """The body of all attempts: the first one given. None: the delivery is not held any more."""

    def settle_delivery(
        self, delivery: Delivery, attempt: Attempt, state: State, pause_s: float = 0.0
    ) -> bool:
        """Note the attempt; `waiting`: try again in `pause_s`. False: it is not held any more."""

    def deliveries(self, job_id: str) -> list[Delivered]:
        """The job's deliveries, oldest first. None of a job that is not remembered."""

    def redeliver(self, job_id: str, name: str) -> bool:
        """Try it now, with a fresh body and all its tries. False: there is no such delivery."""

    def webhook_secrets(self, owner: str, proposal: str, *, rotate: bool = False) -> list[str]:
        """The owner's secrets that sign now, newest first: `proposal` if there is none yet.

        `rotate`: `proposal` takes the place of the newest, which signs on for `OVERLAP_S`.
        """

    def outbox_stats(self) -> OutboxStats: ...
