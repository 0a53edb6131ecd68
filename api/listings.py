"""The answers of the routes that list and tell, as the OpenAPI document describes them.

The routes answer plain dictionaries; `extra="forbid"` makes each key that is not here a fault of
the document, which the fuzz tests find.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from shared.answers import JobView
from shared.jobs import Failure

T = TypeVar("T")


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Listing(Answer, Generic[T]):
    object: Literal["list"]
    data: list[T]


class LoraView(Answer):
    """An adapter of a model; `trigger`: words of a prompt that it was trained on."""

    name: str
    title: str
    sha256: str
    trigger: list[str]


class ModelView(Answer):
    """A model: what it can do, and who serves it now."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    title: str
    default: bool
    aliases: list[str]
    engine: str
    precision: str
    t5: str
    placement: str
    defaults: dict[str, float | str]
    limits: dict[str, int]
    skip_layers: list[int]
    loras: list[LoraView]
    workers_ready: int
    random_weights: bool


class Alive(Answer):
    ok: bool


class Readiness(Answer):
    ready: bool
    draining: bool
    checks: dict[str, bool]


class Warning(Answer):
    model_config = ConfigDict(extra="allow")

    reason: str
    advice: str


class LoadingStepView(Answer):
    name: str
    status: Literal["waiting", "running", "done", "skipped", "failed"]
    seconds: float | None


class DeathView(Answer):
    cause: str
    at: str | float


class GpuView(Answer):
    name: str
    utilization: int | None
    memory_used_mb: int
    memory_peak_mb: int
    memory_total_mb: int


class WorkerStateView(Answer):
    """What anybody may know of a worker."""

    state: str
    steps: list[LoadingStepView]
    load_s: float | None
    error: str | None
    note: str | None
    last_death: DeathView | None


class ModelStateView(Answer):
    id: str
    ready: bool
    workers: list[WorkerStateView]


class Standing(Answer):
    """How far the farm is; `reason` says why it is not ready."""

    ready: bool
    reason: str | None
    warnings: list[Warning]
    version: str
    models: list[ModelStateView]


class ErrorKind(Answer):
    code: str
    title: str
    status: list[int]
    type: str
    meaning: str


class WorkerView(Answer):
    """A worker, as admins see it."""

    id: str
    object: Literal["worker"]
    model: str
    state: str
    note: str | None
    steps: list[LoadingStepView]
    load_s: float | None
    error: str | None
    engine: str | None
    placement: str | None
    device: str
    gpu: GpuView | None
    render: str | None
    holding: int
    last_seen_at: str
    last_death: DeathView | None


class Gone(Answer):
    """A worker that was released after it had left."""

    id: str


class PoisonView(Answer):
    object: Literal["poison"]
    render: str
    fingerprint: str
    spec: dict[str, Any]
    jobs: list[str]
    owners: list[str]
    attempts: int
    losses: int
    failed_at: str
    error: Failure


class ResultEntry(Answer):
    index: int
    seed: int
    b64_json: str


class ResultJson(Answer):
    """Every picture of a job that is done, in the order's format."""

    images: list[ResultEntry]


Models = Listing[ModelView]
Errors = Listing[ErrorKind]
Workers = Listing[WorkerView]
PoisonList = Listing[PoisonView]
Jobs = Listing[JobView]


class ActView(Answer):
    """What an admin did: `actor` did `what` to `target`."""

    id: str
    object: Literal["act"]
    at: str
    actor: str
    key: str | None
    what: str
    target: str
    owner: str | None
    request_id: str | None


class ActList(Listing[ActView]):
    has_more: bool
