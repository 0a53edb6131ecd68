"""A worker's bench without its processes: on the memory store, with a fake engine or a real one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry

from shared.errors import ResultGone, ResultsUnavailable
from shared.images import PictureInfo
from shared.jobs import RenderSpec, StoredResult
from shared.metrics import WorkerMetrics
from shared.results.inputs import Inputs as StoredInputs
from shared.store.memory import MemoryJobStore
from shared.store.values import Claim, Gpu, WorkerStatus
from shared.traces import Traces
from tests.orders import POOL
from worker.engines.port import Inputs, OnStep, Picture, Previews, Renderer
from worker.health import Health
from worker.heart import Heart
from worker.inputs import Pantry
from worker.keep import Keep
from worker.leases import Lease
from worker.previews import Gallery
from worker.render import Bench, Seat

LEASE_S = 30.0


class FakeRenderer:
    """Steps like an engine; `at` is called before each step, and `sick` is what a self-test raises."""

    def __init__(self) -> None:
        self.renders = 0
        self.at: Callable[[int], None] = lambda step: None
        self.gpu: Gpu | None = None
        self.sick: Exception | None = None
        self.self_tests = 0

    def warm_up(self) -> None:
        self.self_tests += 1
        if self.sick:
            raise self.sick

    def memory(self) -> Gpu | None:
        return self.gpu

    def render(
        self,
        spec: RenderSpec,
        on_step: OnStep,
        inputs: Callable[[], Inputs] | None = None,
        previews: Previews | None = None,
    ) -> Picture:
        self.given = inputs() if inputs else None
        for step in range(1, spec.steps_to_run + 1):
            self.at(step)
            on_step(step, spec.steps_to_run)
        self.renders += 1
        rgb = bytes([spec.seed % 256]) * (spec.width * spec.height * 3)
        return Picture(rgb, spec.width, spec.height, {"denoise": 0.5}, {"device": "fake"})


class FakeResults:
    """A dict; `down` makes the next calls fail; `gate` holds every put, `view` every find."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[StoredResult, bytes]] = {}
        self.down = 0
        self.gate = threading.Event()
        self.gate.set()
        self.view = threading.Event()
        self.view.set()

    def put(self, result: StoredResult, png: bytes, details: dict[str, Any]) -> None:
        self.gate.wait(10)
        if self.down:
            self.down -= 1
            raise ResultsUnavailable
        self.kept[result.fingerprint, result.token] = (result, png)

    def find(self, fingerprint: str) -> StoredResult | None:
        self.view.wait(10)
        found = (r for (fp, _), (r, _) in sorted(self.kept.items()) if fp == fingerprint)
        return next(found, None)

    def read(self, result: StoredResult, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        try:
            return iter([self.kept[result.fingerprint, result.token][1][start:end]])
        except KeyError:
            raise ResultGone from None

    def delete(self, result: StoredResult) -> None:
        self.kept.pop((result.fingerprint, result.token), None)


class FakeLeases:
    """Holds without a keeper; `lease` is the last one."""

    lease: Lease

    def __init__(self) -> None:
        self.held: set[str] = set()

    def expect(self, token: str | None) -> None:
        self.expected = token

    def hold(self, claim: Claim) -> Lease:
        assert claim.token == self.expected
        self.held.add(claim.token)
        self.lease = Lease(self, claim)  # type: ignore[arg-type]
        return self.lease

    def drop(self, lease: Lease) -> None:
        self.held.discard(lease.token)

    def tell(self, line: dict[str, Any]) -> None: ...


class Farm:
    """A bench with everything round it; renders on a fake engine unless `engine` is given."""

    def __init__(
        self,
        store: MemoryJobStore | None = None,
        engine: Renderer | None = None,
        traces: Traces | None = None,
    ) -> None:
        self.store = store or MemoryJobStore()
        self.results = FakeResults()
        self.renderer = FakeRenderer()
        self.leases = FakeLeases()
        self.registry = CollectorRegistry()
        metrics = WorkerMetrics(self.registry)
        self.keep = Keep(self.store, self.results, metrics, _describe, patience_s=0.5)  # type: ignore[arg-type]
        status = WorkerStatus(name="w", pool=POOL, model="tiny", state="ready")
        heart = Heart(self.store, status, None)
        seat = Seat("w", POOL, LEASE_S, drain_s=0.0)
        self.health = Health()
        self.left: list[int] = []
        self.bench = Bench(
            seat, self.store, engine or self.renderer, self.leases, self.keep, heart, metrics,  # type: ignore[arg-type]
            self.health, self._leave, Pantry(StoredInputs(self.results)),
            Gallery(self.store.preview), traces,
        )  # fmt: skip

    def _leave(self, code: int) -> None:
        self.left.append(code)
        self.bench.drain()

    @property
    def unwell(self) -> int:
        """How often this worker left as unwell."""
        status = WorkerStatus(name="w", pool=POOL, model="m", state="busy")
        return self.store.heartbeat(status, 9).unwell

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("renderfarm_renders_total", {"outcome": outcome}) or 0


def _describe(claim: Claim, picture: Picture) -> PictureInfo:
    return PictureInfo.of(claim.spec, claim.fingerprint, random_weights=True)
