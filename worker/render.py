"""The life of one render: a ticket comes in, a picture goes to keeping. No Celery, no torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from threading import Event
from typing import Any

from ulid import ULID

from shared.errors import (
    Canceled,
    DeviceFault,
    FarmError,
    GivenBack,
    LeaseLost,
    RenderFailed,
    StoreUnavailable,
)
from shared.jobs import Failure, StoredResult
from shared.logs import event
from shared.metrics import WorkerMetrics
from shared.store.port import JobStore
from shared.store.values import Claim
from shared.traces import NoTraces, Traces, current, within
from worker import exits
from worker.engines.port import Picture, Renderer
from worker.fail import fail
from worker.health import Health, rss_mb
from worker.heart import Heart
from worker.inputs import Pantry
from worker.keep import Keep
from worker.leases import Lease, Leases
from worker.previews import Gallery
from worker.selftest import self_test
from worker.tracing import render_span

log = logging.getLogger("farm.worker")

# A stored result is looked for first for so long; a slower store is asked beside the first steps,
# so that the device never waits for it.
LOOK_FIRST_S = 0.005
DEVICE_FAILED = str(DeviceFault())  # a client sees this; what CUDA said is for the log


class Found(FarmError):
    """The picture was stored before."""


@dataclass(slots=True, frozen=True)
class Seat:
    """Who works where: one seat is one worker slot on one device, serving one pool."""

    name: str
    pool: str
    lease_s: float
    drain_s: float


class Bench:
    """Takes one ticket at a time, always from the same thread.

    `leave` is called with an exit code when this worker must go; it makes the process drain.
    """

    def __init__(
        self,
        seat: Seat,
        store: JobStore,
        renderer: Renderer,
        leases: Leases,
        keep: Keep,
        heart: Heart,
        metrics: WorkerMetrics,
        health: Health,
        leave: Callable[[int], None],
        pantry: Pantry,
        gallery: Gallery,
        traces: Traces | None = None,
    ) -> None:
        self._seat = seat
        self._store = store
        self._renderer = renderer
        self._leases = leases
        self._keep = keep
        self._heart = heart
        self._metrics = metrics
        self._health = health
        self._leave = leave
        self._pantry = pantry
        self._gallery = gallery
        self._traces = traces or NoTraces()
        self._lease: Lease | None = None
        self._draining = Event()
        self._drain_until = float("inf")
        self._idle_since: float | None = None
        self.tickets = 0
        self.at_work = False

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def stuck(self) -> bool:
        """Whether it works on a render that it has lost, as if nobody had told it."""
        lease = self._lease
        return lease is not None and lease.lost.is_set()

    def drain(self) -> None:
        """Take no new render; the running one has `drain_s` to finish before it is given back."""
        self._drain_until = time.monotonic() + self._seat.drain_s
        self._draining.set()
        self._heart.say("draining")
        event(log, "draining", worker=self._seat.name, grace_s=self._seat.drain_s)

    def take(self) -> bool:
        """Answer one ticket; False when there was nothing to render."""
        self.tickets += 1
        if self.draining:
            return False
        self.at_work = True
        try:
            return self._take()
        finally:
            self.at_work = False

    def _take(self) -> bool:
        token, seat, asked_at = str(ULID()), self._seat, time.time()
        self._leases.expect(token)
        claim = self._store.claim(seat.pool, token, seat.name, seat.name, seat.lease_s)
        if claim is None:
            self._leases.expect(None)
            self._metrics.idle_tickets.inc()
            return False
        begun = time.monotonic()
        self._observe_claim(claim, begun)
        self._lease = lease = self._leases.hold(claim)
        try:
            with within(render_span(self._traces, claim, asked_at)):
                event(log, "claimed", **claim.who, waited_s=_ms(claim.claimed_at - claim.queued_at))
                self._heart.busy(claim.render_id)
                self._live(claim, lease)
        finally:
            self._lease = None
            self._idle_since = time.monotonic()
            self._metrics.busy_seconds.inc(self._idle_since - begun)
            self._rest()
        return True

    def _rest(self) -> None:
        """Between two renders: is this worker well?"""
        if self.draining:
            self._heart.idle()
            return None
        if doubt := self._health.doubt():
            code, reason = self_test(self._renderer, self._seat.name, doubt)
            if code:
                return self._go(code, reason)
            self._health.rendered()
        gpu = self._renderer.memory()
        self._heart.idle(gpu)
        if gpu:
            self._metrics.holds(gpu)
        if complaint := self._health.complaint(rss_mb(), gpu):
            self._go(exits.UNWELL, complaint)
        return None

    def _go(self, code: int, reason: str) -> None:
        event(log, "unwell", logging.ERROR, worker=self._seat.name, reason=reason)
        self._leave(code)
        try:
            self._store.unwell(self._seat.name, str(ULID()))
        except StoreUnavailable as error:
            event(log, "not_counted", logging.WARNING, reason=str(error))

    def _live(self, claim: Claim, lease: Lease) -> None:
        """One render from claim to keeping. Whoever ends it here also lets go of the lease."""
        try:
            picture = self._drawn(claim, lease)
        except Exception as error:
            lease.drop()  # the job store may be away: the lease ends, and another claim follows
            current().fail(type(error).__name__)
            current().end()
            raise
        if picture:
            self._keep.put(claim, lease, picture)
        else:
            lease.drop()
            current().end()

    def _drawn(self, claim: Claim, lease: Lease) -> Picture | None:
        """The picture to keep; None where the render ended without one, and its end was told."""
        look = None if claim.fresh else self._keep.look(claim.fingerprint)
        try:
            picture = self._render(claim, lease, look)
            if not self._store.storing(claim.render_id, claim.token, claim.spec.steps_to_run):
                raise LeaseLost
        except Found:
            self._close_found(claim, look)
        except Canceled:
            self._store.close(claim.render_id, claim.token, None)
            self._ended("canceled", claim)
        except GivenBack:
            self._store.release(claim.render_id, claim.token, lost=False)
            self._ended("given_back", claim)
        except LeaseLost:
            self._ended("lost", claim, logging.WARNING)
        except RenderFailed as error:
            failure = Failure(code=error.code, message=str(error), retryable=error.retryable)
            self._health.failed(error.code)
            fail(self._store, self._metrics, claim, failure, reason=str(error))
        except DeviceFault as error:
            self._go(exits.DEVICE_FAULT, str(error))
            self._store.release(
                claim.render_id, claim.token, lost=True, cause="device_fault", detail=DEVICE_FAILED
            )
            self._ended("device_fault", claim, logging.WARNING)
        except FarmError:
            raise
        except Exception:
            failure = Failure(code="internal_error", message="internal error")
            self._health.failed("internal_error")
            fail(self._store, self._metrics, claim, failure, logging.ERROR)
            raise
        else:
            self._health.rendered()
            if picture.effort:
                self._metrics.effort.observe(picture.effort, picture.steps_s)
            return picture
        return None

    def _render(
        self, claim: Claim, lease: Lease, look: Future[StoredResult | None] | None
    ) -> Picture:
        def check() -> None:
            lease.check()
            if _found(look, 0):
                raise Found
            if time.monotonic() > self._drain_until:
                raise GivenBack

        def on_step(step: int, steps: int) -> None:
            lease.progress(step)
            check()

        if _found(look, LOOK_FIRST_S):
            raise Found
        if unknown := claim.spec.unknown:  # other pixels under this fingerprint would stay for ever
            names = ", ".join(sorted(unknown))
            message = f"this worker is older than the order and does not know: {names}"
            raise RenderFailed("worker_too_old", message, retryable=True)
        inputs = self._pantry.fetch(claim.spec, check)
        return self._renderer.render(claim.spec, on_step, inputs, self._gallery.of(claim))

    def _close_found(self, claim: Claim, look: Future[StoredResult | None] | None) -> None:
        result = look.result() if look else None
        closed = self._store.close(claim.render_id, claim.token, result, found=True)
        if closed:
            self._ended("found", claim)
        else:
            self._ended("lost", claim, logging.WARNING)

    def _ended(self, outcome: str, claim: Claim, level: int = logging.INFO, **fields: Any) -> None:
        self._metrics.renders.labels(outcome).inc()
        current().tell(outcome=outcome)
        event(log, outcome, level, **claim.who, **fields)

    def _observe_claim(self, claim: Claim, now: float) -> None:
        if self._idle_since is not None:
            self._metrics.idle_seconds.observe(now - self._idle_since)
        if claim.attempt == 1:  # later it waited for what went wrong, too
            self._metrics.wait_seconds.observe(max(0.0, claim.claimed_at - claim.queued_at))


def _found(look: Future[StoredResult | None] | None, limit_s: float) -> bool:
    if look is None:
        return False
    try:
        return look.result(timeout=limit_s) is not None
    except NotYet:
        return False


def _ms(seconds: float) -> float:
    return round(seconds, 3)
