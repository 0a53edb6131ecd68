"""The life of one render, on a fake engine and the memory store: every way it can end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NoReturn

import pytest

from shared.errors import (
    Canceled,
    DeviceFault,
    GivenBack,
    ModelError,
    RenderFailed,
    StoreUnavailable,
)
from shared.images import PictureInfo, encode_png
from shared.jobs import JobStatus, RenderSpec, RenderState, StoredResult, Verdict
from shared.store.memory import MemoryJobStore
from shared.store.values import (
    Gpu,
)
from tests.bench import LEASE_S, Farm
from tests.orders import POOL, stored, submission
from tests.waiting import wait_until
from worker import exits
from worker.leases import Lease


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


def test_a_search_that_hangs_does_not_hold_up_the_end(farm: Farm) -> None:
    farm.results.view.clear()
    hanging = farm.keep.look("another")
    ended = threading.Thread(target=farm.keep.close, daemon=True)

    ended.start()
    ended.join(2)

    assert not ended.is_alive()
    assert not hanging.done()
    farm.results.view.set()
    hanging.result(2)


def test_a_search_that_hangs_does_not_hold_up_the_next(farm: Farm) -> None:
    order = submission(seed=7)
    farm.results.put(stored(order.orders[0].fingerprint, "older"), b"picture", {})
    farm.results.view.clear()
    hanging = farm.keep.look("another")
    farm.results.view = opened = threading.Event()
    opened.set()

    found = farm.keep.look(order.orders[0].fingerprint)

    assert found.result(2) is not None
    assert not hanging.done()


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


def become_a_zombie(farm: Farm) -> Lease:
    """The worker is storing its picture when its lease is lost."""
    farm.store.submit(submission())
    farm.results.gate.clear()
    farm.bench.take()
    lease = farm.leases.lease
    farm.store.release(lease.render_id, lease.token, lost=True)
    return lease


def test_a_zombies_upload_is_taken_away_when_another_picture_was_published(farm: Farm) -> None:
    become_a_zombie(farm)
    other = farm.store.claim(POOL, "other", "slot", "w2", LEASE_S)
    assert other is not None
    farm.store.close(other.render_id, "other", stored(other.fingerprint, "other"))

    farm.results.gate.set()
    farm.keep.close()

    assert farm.results.kept == {}
    assert farm.count("lost") == 1


def test_a_zombies_upload_that_another_claim_found_and_published_stays(farm: Farm) -> None:
    lease = become_a_zombie(farm)
    claimed = farm.store.claim(POOL, "other", "slot", "w2", LEASE_S)
    assert claimed is not None
    published = stored(claimed.fingerprint, lease.token)
    farm.store.close(claimed.render_id, "other", published, found=True)

    farm.results.gate.set()
    farm.keep.close()

    assert (claimed.fingerprint, lease.token) in farm.results.kept
    assert farm.count("lost") == 1


class AwayAtTheEnd(MemoryJobStore):
    """Takes no last word of any render, as a server that is away for longer than its callers wait."""

    def close(self, *_: Any, **__: Any) -> NoReturn:
        raise StoreUnavailable

    def release(self, *_: Any, **__: Any) -> NoReturn:
        raise StoreUnavailable


@pytest.mark.parametrize(
    "end",
    [Canceled(), GivenBack(), RenderFailed("render_error", "no"), DeviceFault("no"), ValueError()],
    ids=lambda end: type(end).__name__,
)
def test_a_render_whose_end_cannot_be_told_is_no_longer_held(end: Exception) -> None:
    farm = Farm(AwayAtTheEnd())
    farm.store.submit(submission())

    def stop(step: int) -> None:
        raise end

    farm.renderer.at = stop
    with pytest.raises(StoreUnavailable):
        farm.bench.take()

    assert farm.leases.held == set()
    farm.keep.close()


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


def test_an_order_that_is_newer_than_the_worker_is_not_rendered(farm: Farm) -> None:
    order = submission(seed=7)
    newer = RenderSpec.model_validate({**order.orders[0].spec.model_dump(), "hue": 3})
    farm.store.submit(replace(order, orders=[replace(order.orders[0], spec=newer)]))

    assert farm.bench.take()
    farm.keep.close()

    error = farm.store.get(order.job.id).images[0].render.error
    assert error is not None
    assert (error.code, error.retryable) == ("worker_too_old", True)
    assert "hue" in error.message
    assert (farm.renderer.renders, farm.results.kept) == (0, {})


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


def refuse(step: int) -> None:
    raise RenderFailed("render_error", "the image has values that are not finite")


def test_a_broken_device_gives_the_render_back_and_ends_the_worker(farm: Farm) -> None:
    job = farm.store.submit(submission(n=2)).job

    def fail(step: int) -> None:
        raise DeviceFault("CUDA error: an illegal memory access was encountered")

    farm.renderer.at = fail
    assert farm.bench.take()
    assert not farm.bench.take()

    renders = [image.render for image in farm.store.get(job.id).images]
    assert {render.state for render in renders} == {RenderState.queued}
    assert sorted(render.last_loss or "" for render in renders) == ["", "device_fault"]
    assert (farm.left, farm.unwell) == ([exits.DEVICE_FAULT], 1)
    assert (farm.leases.held, farm.count("device_fault")) == (set(), 1)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ModelError("it cannot render"), exits.UNWELL),
        (ZeroDivisionError(), exits.UNWELL),
        (DeviceFault("CUDA error: unspecified launch failure"), exits.DEVICE_FAULT),
    ],
)
def test_failures_in_a_row_and_a_failed_self_test_end_the_worker_and_are_counted(
    farm: Farm, fault: Exception, code: int
) -> None:
    farm.health.max_failures = 3
    farm.renderer.sick = fault
    farm.store.submit(submission(n=5))
    farm.renderer.at = refuse

    taken = [farm.bench.take() for _ in range(5)]

    assert taken == [True, True, True, False, False]
    assert (farm.left, farm.unwell, farm.renderer.self_tests) == ([code], 1, 1)


def test_renders_that_fail_on_a_device_that_draws_end_no_worker(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    farm.health.max_failures = 3
    farm.store.submit(submission(n=7))
    farm.renderer.at = refuse

    assert all(farm.bench.take() for _ in range(7))

    assert (farm.left, farm.unwell, farm.renderer.self_tests) == ([], 0, 2)
    told = [r for r in caplog.records if getattr(r, "action", "") == "self_test_passed"]
    assert [record.reason for record in told] == ["3 renders failed in a row"] * 2  # type: ignore[attr-defined]


def test_a_picture_between_failures_shows_that_the_worker_is_well(farm: Farm) -> None:
    farm.health.max_failures = 2
    farm.store.submit(submission(n=6))

    for turn in range(6):
        farm.renderer.at = refuse if turn % 2 else lambda step: None
        farm.bench.take()

    assert farm.left == []


@pytest.mark.parametrize("code", ["out_of_memory", "input_missing"])
def test_what_is_not_the_workers_fault_does_not_count(farm: Farm, code: str) -> None:
    farm.health.max_failures = 1
    farm.store.submit(submission(n=2))

    def fail(step: int) -> None:
        raise RenderFailed(code, "no")

    farm.renderer.at = fail
    farm.bench.take()

    assert farm.left == []


def test_an_internal_error_counts(farm: Farm) -> None:
    farm.health.max_failures = 1
    farm.renderer.sick = ModelError("it cannot render")
    farm.store.submit(submission())

    def fail(step: int) -> None:
        raise ZeroDivisionError

    farm.renderer.at = fail
    with pytest.raises(ZeroDivisionError):
        farm.bench.take()

    assert farm.left == [exits.UNWELL]


def test_memory_that_creeps_ends_the_worker_after_its_picture(farm: Farm) -> None:
    farm.health.max_growth_mb, farm.health.ready_mb = 500, 1000
    job = farm.store.submit(submission(n=2)).job

    for used_mb in (1500, 1501):
        farm.renderer.gpu = Gpu(
            name="card", memory_used_mb=used_mb, memory_peak_mb=0, memory_total_mb=0
        )
        farm.bench.take()
    farm.keep.close()

    assert farm.store.get(job.id).status is JobStatus.succeeded
    assert farm.left == [exits.UNWELL]


def test_a_render_that_was_lost_and_goes_on_is_seen_from_outside(farm: Farm) -> None:
    farm.store.submit(submission())
    seen: list[tuple[bool, bool]] = []

    def lose(step: int) -> None:
        seen.append((farm.bench.at_work, farm.bench.stuck))
        farm.leases.lease.lost.set()
        seen.append((farm.bench.at_work, farm.bench.stuck))

    farm.renderer.at = lose
    farm.bench.take()

    assert seen == [(True, False), (True, True)]
    assert (farm.bench.at_work, farm.bench.stuck, farm.bench.tickets) == (False, False, 1)


# ------------------------------------------------------------------------------- verification


def verify(farm: Farm, against: StoredResult) -> Verdict | None:
    """The picture of seed 5 once more, compared with this one; the verdict, or None."""
    order = submission(seed=5, cache="bypass")
    orders = [replace(order.orders[0], against=against)]
    job = farm.store.submit(replace(order, orders=orders)).job
    farm.bench.take()
    farm.keep.close()
    return farm.store.get(job.id).images[0].render.verdict


def kept(farm: Farm, seed: int) -> StoredResult:
    """The stored picture of this seed, under the name of seed 5."""
    spec = submission(seed=seed).orders[0].spec
    rgb = bytes([seed]) * (spec.width * spec.height * 3)
    png = encode_png(rgb, spec.width, spec.height, PictureInfo.of(spec, "f" * 64))
    result = stored(submission(seed=5).orders[0].fingerprint, "old", png)
    farm.results.put(result, png, {})
    return result


@pytest.mark.parametrize(("seed", "difference"), [(5, 0), (7, 2), (3, 2)])
def test_a_verification_compares_pixels_and_stores_nothing(
    farm: Farm, seed: int, difference: int
) -> None:
    verdict = verify(farm, kept(farm, seed))

    assert verdict is not None
    assert (verdict.identical, verdict.max_abs_diff) == (difference == 0, difference)
    assert verdict.psnr_db == pytest.approx(42.1 if difference else 99.0, abs=0.05)
    assert [token for _, token in farm.results.kept] == ["old"]
    assert farm.renderer.renders == 1
    assert verdict.timings_s["denoise"] == 0.5


def test_a_verification_names_the_file_that_it_would_have_stored(farm: Farm) -> None:
    farm.store.submit(submission(seed=5))
    farm.bench.take()
    wait_until(lambda: farm.results.kept)
    [(result, _)] = farm.results.kept.values()

    verdict = verify(farm, result)

    assert verdict is not None
    assert (verdict.identical, verdict.sha256) == (True, result.sha256)


def test_a_verification_without_its_picture_fails(farm: Farm) -> None:
    gone = stored(submission(seed=5).orders[0].fingerprint, "gone")

    assert verify(farm, gone) is None

    assert farm.count("failed") == 1
    assert not farm.leases.held
