"""The life of one render, on a fake engine and the memory store: every way it can end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shared.errors import RenderFailed, ResultsUnavailable
from shared.images import PictureInfo
from shared.jobs import JobStatus, RenderSpec, RenderState, StoredResult
from shared.metrics import WorkerMetrics
from shared.store.memory import MemoryJobStore
from shared.store.port import Claim, WorkerStatus
from tests.orders import POOL, stored, submission
from worker.engines.port import OnStep, Picture
from worker.heart import Heart
from worker.keep import Keep
from worker.leases import Lease
from worker.render import Bench, Seat

LEASE_S = 30.0


class FakeRenderer:
    """Steps like an engine; `at` is called before each step."""

    def __init__(self) -> None:
        self.renders = 0
        self.at: Callable[[int], None] = lambda step: None

    def warm_up(self) -> None: ...

    def render(self, spec: RenderSpec, on_step: OnStep) -> Picture:
        for step in range(1, spec.steps + 1):
            self.at(step)
            on_step(step, spec.steps)
        self.renders += 1
        rgb = bytes([spec.seed % 256]) * (spec.width * spec.height * 3)
        return Picture(rgb, spec.width, spec.height, {"denoise": 0.5}, {"device": "fake"})


class FakeResults:
    """A dict; `down` makes the next calls fail; `gate` holds every put."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[StoredResult, bytes]] = {}
        self.down = 0
        self.gate = threading.Event()
        self.gate.set()

    def put(self, result: StoredResult, png: bytes, details: dict[str, Any]) -> None:
        self.gate.wait(10)
        if self.down:
            self.down -= 1
            raise ResultsUnavailable
        self.kept[result.fingerprint, result.token] = (result, png)

    def find(self, fingerprint: str) -> StoredResult | None:
        found = (r for (fp, _), (r, _) in sorted(self.kept.items()) if fp == fingerprint)
        return next(found, None)

    def delete(self, result: StoredResult) -> None:
        self.kept.pop((result.fingerprint, result.token), None)


class FakeLeases:
    """Holds without a keeper; `lease` is the last one."""

    lease: Lease

    def __init__(self) -> None:
        self.held: set[str] = set()

    def hold(self, claim: Claim) -> Lease:
        self.held.add(claim.token)
        self.lease = Lease(self, claim)  # type: ignore[arg-type]
        return self.lease

    def drop(self, lease: Lease) -> None:
        self.held.discard(lease.token)

    def tell(self, line: dict[str, Any]) -> None: ...


class Farm:
    """A bench with everything round it."""

    def __init__(self) -> None:
        self.store = MemoryJobStore()
        self.results = FakeResults()
        self.renderer = FakeRenderer()
        self.leases = FakeLeases()
        self.registry = CollectorRegistry()
        metrics = WorkerMetrics(self.registry)
        self.keep = Keep(self.store, self.results, metrics, _describe, patience_s=0.5)  # type: ignore[arg-type]
        status = WorkerStatus(name="w", pool=POOL, model="tiny", state="ready")
        heart = Heart(self.store, status, None)
        seat = Seat("w", POOL, LEASE_S, drain_s=0.0)
        self.bench = Bench(
            seat, self.store, self.renderer, self.leases, self.keep, heart, metrics  # type: ignore[arg-type]
        )  # fmt: skip

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("renderfarm_renders_total", {"outcome": outcome}) or 0


def _describe(claim: Claim, picture: Picture) -> PictureInfo:
    return PictureInfo.of(claim.spec, claim.fingerprint, random_weights=True)


@pytest.fixture
def farm() -> Iterator[Farm]:
    farm = Farm()
    yield farm
    farm.results.gate.set()
    farm.keep.close()


def test_a_ticket_becomes_a_stored_picture(farm: Farm) -> None:
    job = farm.store.submit(submission(seed=7)).job

    assert farm.bench.take()
    farm.keep.close()

    image = farm.store.get(job.id).images[0]
    assert image.status is RenderState.succeeded
    result = image.render.result
    assert result is not None
    assert farm.results.kept[result.fingerprint, result.token][1].startswith(b"\x89PNG")
    assert farm.leases.held == set()
    assert (farm.count("succeeded"), farm.count("failed")) == (1, 0)


def test_a_ticket_too_many_finds_nothing(farm: Farm) -> None:
    assert not farm.bench.take()
    assert farm.registry.get_sample_value("renderfarm_tickets_idle_total") == 1


def test_the_next_render_runs_while_the_last_is_stored(farm: Farm) -> None:
    job = farm.store.submit(submission(n=2)).job
    farm.results.gate.clear()

    farm.bench.take()
    farm.bench.take()

    assert farm.renderer.renders == 2
    states = {image.status for image in farm.store.get(job.id).images}
    assert states == {RenderState.storing}
    farm.results.gate.set()
    farm.keep.close()
    assert farm.store.get(job.id).status is JobStatus.succeeded


def test_a_stored_picture_is_found_and_not_rendered_again(farm: Farm) -> None:
    order = submission(seed=7)
    older = stored(order.orders[0].fingerprint, "older")
    farm.results.put(older, b"picture", {})
    job = farm.store.submit(order).job

    farm.bench.take()

    done = farm.store.get(job.id)
    assert (done.status, done.images[0].cached) == (JobStatus.succeeded, True)
    assert done.images[0].render.result == older
    assert (farm.renderer.renders, farm.count("found")) == (0, 1)
    assert farm.leases.held == set()


def test_a_found_picture_that_gc_takes_away_is_rendered_again(farm: Farm) -> None:
    order = submission(seed=7)
    farm.results.put(stored(order.orders[0].fingerprint, "older"), b"picture", {})
    farm.store.condemn(order.orders[0].fingerprint, "older")
    job = farm.store.submit(order).job

    farm.bench.take()
    farm.bench.take()
    farm.keep.close()

    result = farm.store.get(job.id).images[0].render.result
    assert result is not None
    assert result.token != "older"
    assert (farm.count("found"), farm.count("lost"), farm.count("succeeded")) == (0, 1, 1)


def test_bypass_does_not_look(farm: Farm) -> None:
    order = submission(seed=7, cache="bypass")
    farm.results.put(stored(order.orders[0].fingerprint, "older"), b"picture", {})
    farm.store.submit(order)

    farm.bench.take()

    assert farm.renderer.renders == 1


def test_a_canceled_render_stops_at_the_next_step(farm: Farm) -> None:
    job = farm.store.submit(submission()).job
    steps: list[int] = []

    def cancel_at_two(step: int) -> None:
        steps.append(step)
        if step == 2:
            farm.store.cancel(job.id)
            farm.leases.lease.canceled.set()

    farm.renderer.at = cancel_at_two
    farm.bench.take()

    assert steps == [1, 2]
    assert farm.store.get(job.id).status is JobStatus.canceled
    assert (farm.count("canceled"), farm.leases.held) == (1, set())


def test_a_lost_lease_stops_the_render_and_changes_nothing(farm: Farm) -> None:
    job = farm.store.submit(submission()).job

    def lose(step: int) -> None:
        lease = farm.leases.lease
        farm.store.release(lease.render_id, lease.token, lost=True)
        lease.lost.set()

    farm.renderer.at = lose
    farm.bench.take()

    assert farm.store.get(job.id).status is JobStatus.queued
    assert (farm.renderer.renders, farm.count("lost")) == (0, 1)


def test_a_zombies_upload_is_taken_away_again(farm: Farm) -> None:
    farm.store.submit(submission())
    farm.results.gate.clear()
    farm.bench.take()

    lease = farm.leases.lease
    farm.store.release(lease.render_id, lease.token, lost=True)
    farm.results.gate.set()
    farm.keep.close()

    assert farm.results.kept == {}
    assert farm.count("lost") == 1


def test_a_draining_worker_gives_its_render_back_and_takes_no_other(farm: Farm) -> None:
    job = farm.store.submit(submission(n=2)).job
    farm.renderer.at = lambda step: farm.bench.drain() if step == 2 else None

    assert farm.bench.take()
    assert not farm.bench.take()

    images = farm.store.get(job.id).images
    assert {image.status for image in images} == {RenderState.queued}
    assert [image.render.losses for image in images] == [0, 0]
    assert farm.count("given_back") == 1


def test_a_failed_render_says_why(farm: Farm) -> None:
    job = farm.store.submit(submission()).job

    def fail(step: int) -> None:
        raise RenderFailed("render_error", "the image has values that are not finite")

    farm.renderer.at = fail
    farm.bench.take()

    image = farm.store.get(job.id).images[0]
    assert image.render.error is not None
    assert (image.status, image.render.error.code) == (RenderState.failed, "render_error")
    assert (farm.count("failed"), farm.leases.held) == (1, set())


def test_a_fault_that_may_pass_is_tried_again_and_said(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    job = farm.store.submit(submission()).job

    def fail(step: int) -> None:
        raise RenderFailed("out_of_memory", "the device has no memory left", retryable=True)

    farm.renderer.at = fail
    farm.bench.take()

    assert farm.store.get(job.id).status is JobStatus.queued
    assert (farm.count("retried"), farm.count("failed"), farm.leases.held) == (1, 0, set())
    line = vars(next(r for r in caplog.records if r.message == "retrying"))
    assert (line["code"], line["retry"], line["job"]) == ("out_of_memory", 1, job.id)
    assert 0.4 < line["delay_s"] <= 1.0


def test_an_internal_error_fails_the_render_tells_nothing_and_is_raised_on(farm: Farm) -> None:
    job = farm.store.submit(submission()).job

    def fail(step: int) -> None:
        raise ValueError("secret /path/to/something")

    farm.renderer.at = fail
    with pytest.raises(ValueError, match="secret"):
        farm.bench.take()

    error = farm.store.get(job.id).images[0].render.error
    assert error is not None
    assert (error.code, error.message) == ("internal_error", "internal error")
    assert farm.leases.held == set()


def test_a_store_that_comes_back_gets_its_picture(farm: Farm) -> None:
    job = farm.store.submit(submission()).job
    farm.results.down = 1

    farm.bench.take()
    farm.keep.close()

    assert farm.store.get(job.id).status is JobStatus.succeeded


def test_a_store_that_stays_away_is_a_fault_that_may_pass_with_a_typed_code(farm: Farm) -> None:
    job = farm.store.submit(submission()).job
    farm.results.down = 1000

    farm.bench.take()
    farm.keep.close()

    image = farm.store.get(job.id).images[0]
    assert image.render.error is not None
    assert (image.status, image.render.error.code) == (RenderState.queued, "storage_unavailable")
    assert farm.count("retried") == 1
