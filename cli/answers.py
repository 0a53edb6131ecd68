"""What the client reads of the farm's answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.jobs import JobStatus, RenderState


class View(BaseModel):
    """A part of an answer; fields that a newer farm added are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(View):
    code: str
    message: str


class Progress(View):
    step: int
    steps: int


class Image(View):
    index: int
    seed: int
    status: RenderState
    cached: bool = False
    progress: Progress
    url: str | None = None
    error: Problem | None = None


class Job(View):
    id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # becomes part of a file name
    status: JobStatus
    done: bool
    cached: bool
    input: dict[str, Any]
    images: tuple[Image, ...]
    queue_position: int | None = None
    error: Problem | None = None
    poll_s: float = Field(1.0, exclude=True)  # how long to wait before looking again


class Death(View):
    cause: str
    at: str


class KnownWorker(View):
    """A worker as admins see it."""

    id: str
    model: str
    state: str
    holding: int = 0
    note: str | None = None
    error: str | None = None
    render: str | None = None
    last_seen_at: str
    last_death: Death | None = None


class KnownWorkers(View):
    data: tuple[KnownWorker, ...]


class Jobs(View):
    data: tuple[Job, ...]


class Poison(View):
    render: str
    spec: dict[str, Any]
    jobs: tuple[str, ...]
    owners: tuple[str, ...]
    attempts: int
    losses: int
    failed_at: str
    error: Problem


class PoisonList(View):
    data: tuple[Poison, ...]


class Trained(View):
    random_weights: bool = False


class LoadingStep(View):
    name: str
    status: Literal["waiting", "running", "done", "skipped", "failed"]
    seconds: float | None = None


class Worker(View):
    state: str
    steps: tuple[LoadingStep, ...] = ()
    error: str | None = None


class Model(View):
    id: str
    ready: bool
    workers: tuple[Worker, ...] = ()


class FarmStatus(View):
    ready: bool
    reason: str | None = None
    models: tuple[Model, ...] = ()

    def model(self, name: str) -> Model:
        return next((m for m in self.models if m.id == name), Model(id=name, ready=False))
