"""What a key may ask of the farm itself, and what an admin's may do: workers and poison."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from renderfarm_client.records import (
    FarmStatus,
    Job,
    JobPage,
    Model,
    Models,
    Problem,
    Queue,
    Record,
)
from renderfarm_client.wire import Wire, part, read


class Death(Record):
    cause: str
    at: str


class Worker(Record):
    """A worker as admins see it; `holding` is how many renders it has."""

    id: str
    model: str
    state: str
    holding: int = 0
    note: str | None = None
    error: str | None = None
    render: str | None = None
    last_seen_at: str
    last_death: Death | None = None


class Workers(Record):
    data: tuple[Worker, ...]


class Poison(Record):
    """A render that took down its workers too often, and the jobs that failed with it."""

    render: str
    spec: dict[str, Any]
    jobs: tuple[str, ...]
    owners: tuple[str, ...]
    attempts: int
    losses: int
    failed_at: str
    error: Problem


class PoisonList(Record):
    data: tuple[Poison, ...]


class FarmCalls:
    """Mixed into `Client`. Every method raises Refused or Unreachable."""

    _wire: Wire

    def models(self) -> tuple[Model, ...]:
        return read(Models, self._wire.send("GET", "/models")).data

    def model(self, name: str) -> Model:
        """One model, by id or alias."""
        return read(Model, self._wire.send("GET", f"/models/{quote(name)}"))

    def queue(self) -> Queue:
        """How long each model's queue is, and what of it is yours."""
        return read(Queue, self._wire.send("GET", "/queue"))

    def status(self) -> FarmStatus:
        """How far the farm has come in loading its models. Needs no key."""
        return read(FarmStatus, self._wire.send("GET", "/status"))

    # -------------------------------------------- with an admin's key; else Refused, status 403

    def workers(self) -> tuple[Worker, ...]:
        """Every worker heard of within an hour."""
        return read(Workers, self._wire.send("GET", "/workers")).data

    def drain(self, name: str) -> None:
        """Let a worker finish what it holds and take nothing more, until it is released."""
        self._wire.send("POST", f"/workers/{part(name)}/drain")

    def release(self, name: str) -> None:
        """Let a worker work again: lift the order to drain, and a quarantine."""
        self._wire.send("POST", f"/workers/{part(name)}/release")

    def poison(self) -> tuple[Poison, ...]:
        """The renders that took down their workers, the oldest first."""
        return read(PoisonList, self._wire.send("GET", "/poison")).data

    def retry_poison(self, render_id: str) -> tuple[Job, ...]:
        """Retry every job that failed with a render; the new jobs."""
        return read(JobPage, self._wire.send("POST", f"/poison/{part(render_id)}/retry")).data

    def drop_poison(self, render_id: str) -> None:
        """Take a render off the list; its jobs stay failed."""
        self._wire.send("DELETE", f"/poison/{part(render_id)}")
