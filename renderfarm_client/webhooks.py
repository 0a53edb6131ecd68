"""What an owner asks about webhooks: the secret, what became of each, another try."""

from __future__ import annotations

from typing import Literal

from renderfarm_client.records import Job, Record
from renderfarm_client.wire import Wire, part, read


class WebhookSecret(Record):
    """`signatures`: how many secrets sign now; more than one for a day after a change."""

    secret: str
    signatures: int = 1


class Attempt(Record):
    """`status` is what the receiver answered, `error` why it did not."""

    at: str
    status: int | None = None
    error: str | None = None
    ms: int


class Delivery(Record):
    """One event of a job on its way to the job's webhook; oldest attempt first."""

    id: str
    job: str
    type: str
    index: int | None = None
    status: Literal["waiting", "delivered", "failed", "gone"]
    created_at: str
    next_try_at: str | None = None
    attempts: tuple[Attempt, ...] = ()


class Deliveries(Record):
    data: tuple[Delivery, ...]


class WebhookCalls:
    """Mixed into `Client`. Every method raises Refused or Unreachable."""

    _wire: Wire

    def webhook_secret(self, *, rotate: bool = False) -> WebhookSecret:
        """What signs your webhooks; `rotate`: a new one, while the old signs too for a day."""
        method, path = ("POST", "/rotate") if rotate else ("GET", "")
        return read(WebhookSecret, self._wire.send(method, f"/webhooks/secret{path}"))

    def deliveries(self, job: Job | str) -> tuple[Delivery, ...]:
        """What became of a job's webhooks, the oldest first."""
        return read(Deliveries, self._wire.send("GET", f"{_path(job)}/deliveries")).data

    def redeliver(self, job: Job | str, delivery: str | None = None) -> Delivery:
        """Send a webhook again, now: that of this id, or the job's newest."""
        params = {"delivery": delivery} if delivery else {}
        return read(Delivery, self._wire.send("POST", f"{_path(job)}/redeliver", params=params))


def _path(job: Job | str) -> str:
    return f"/jobs/{part(job if isinstance(job, str) else job.id)}"
