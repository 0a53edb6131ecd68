"""Keeping a picture: encode, store or compare, close; off the render thread, so that the device goes on."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import BoundedSemaphore, Thread
from typing import TypeVar

from shared.errors import FarmError, ResultGone, ResultsUnavailable
from shared.images import PictureInfo, encode_png
from shared.jobs import Failure, StoredResult, Verdict, device_seconds
from shared.logs import event
from shared.metrics import WorkerMetrics
from shared.results.port import ResultStore
from shared.store.port import JobStore
from shared.store.values import Claim
from shared.traces import current, step
from worker.compare import distance
from worker.engines.port import Picture
from worker.fail import fail
from worker.leases import Lease

T = TypeVar("T")

log = logging.getLogger("farm.worker")
AT_ONCE = 2
PATIENCE_S = 60.0  # how long a store that does not answer is tried again

Describe = Callable[[Claim, Picture], PictureInfo]


class Keep:
    """At most two pictures are being stored; the third waits, and the render thread with it."""

    def __init__(
        self,
        store: JobStore,
        results: ResultStore,
        metrics: WorkerMetrics,
        describe: Describe,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._store = store
        self._results = results
        self._metrics = metrics
        self._describe = describe
        self._patience_s = patience_s
        self._room = BoundedSemaphore(AT_ONCE)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="keep")

    def look(self, fingerprint: str) -> Future[StoredResult | None]:
        """Search for a stored result beside the render. A store that does not answer has none.

        In a thread of its own, which nobody waits for: a store that hangs holds up neither the next
        search nor the end of this process.
        """
        found: Future[StoredResult | None] = Future()

        def search() -> None:
            try:
                found.set_result(self._find(fingerprint))
            except Exception as error:  # for the thread of the render
                found.set_exception(error)

        Thread(target=copy_context().run, args=(search,), name="look", daemon=True).start()
        return found

    def _find(self, fingerprint: str) -> StoredResult | None:
        try:
            return self._results.find(fingerprint)
        except ResultsUnavailable as error:
            event(log, "not_looked", logging.WARNING, fingerprint=fingerprint, reason=str(error))
            return None

    def put(self, claim: Claim, lease: Lease, picture: Picture) -> None:
        """Take the picture over, and its lease. Returns as soon as there is room."""
        self._room.acquire()
        # In its context, so that the spans and lines of that thread belong to the render.
        self._threads.submit(copy_context().run, self._keep, claim, lease, picture)

    def close(self) -> None:
        """Wait until everything is stored."""
        self._threads.shutdown(wait=True)

    def _keep(self, claim: Claim, lease: Lease, picture: Picture) -> None:
        try:
            self._store_and_close(claim, lease, picture)
        except FarmError as error:
            # The lease ends with this: somebody will claim the render, and find what was stored.
            event(log, "not_closed", logging.WARNING, **claim.who, reason=str(error))
        except Exception:
            log.exception("internal error while keeping a picture")
            failure = Failure(code="internal_error", message="the picture could not be kept")
            fail(self._store, self._metrics, claim, failure, logging.ERROR)
        finally:
            lease.drop()
            current().end()
            self._room.release()

    def _store_and_close(self, claim: Claim, lease: Lease, picture: Picture) -> None:
        started = time.perf_counter()
        info = self._describe(claim, picture)
        with step("encode"):
            png = encode_png(picture.rgb, picture.width, picture.height, info)
        encoded = time.perf_counter()
        timings = {**picture.timings_s, "encode": encoded - started}
        told = {phase: round(seconds, 6) for phase, seconds in timings.items()}
        sha256 = hashlib.sha256(png).hexdigest()
        if claim.against:
            self._compare_and_close(claim, claim.against, lease, picture, sha256, told)
            return
        result = StoredResult(
            fingerprint=claim.fingerprint,
            token=claim.token,
            size_bytes=len(png),
            sha256=sha256,
            width=picture.width,
            height=picture.height,
            timings_s=told,
            profile=picture.profile,
            exact=picture.exact,
            effort=picture.effort,
            stored_at=time.time(),
        )
        try:
            with step("store"):
                self._patiently(lambda: self._results.put(result, png, info.details()), lease)
        except ResultsUnavailable as error:
            self._without_storage(claim, "the picture could not be kept", error)
            return
        timings["store"] = time.perf_counter() - encoded
        self._close(claim, result, timings)

    def _compare_and_close(
        self,
        claim: Claim,
        against: StoredResult,
        lease: Lease,
        picture: Picture,
        sha256: str,
        timings: dict[str, float],
    ) -> None:
        """A verification stores nothing; the picture that it asks about stays as it is."""
        try:
            with step("compare"):
                stored = self._patiently(lambda: b"".join(self._results.read(against)), lease)
        except ResultGone:
            message = "the stored picture is gone: there is nothing to compare with"
            fail(self._store, self._metrics, claim, Failure(code="input_missing", message=message))
            return
        except ResultsUnavailable as error:
            self._without_storage(claim, "the picture could not be compared", error)
            return
        found = distance(picture, stored)
        verdict = Verdict(
            identical=found.max_abs_diff == 0,
            max_abs_diff=found.max_abs_diff,
            psnr_db=found.psnr_db,
            sha256=sha256,
            timings_s=timings,
            profile=picture.profile,
            effort=picture.effort,
        )
        self._close(claim, verdict, timings)

    def _without_storage(self, claim: Claim, what: str, error: ResultsUnavailable) -> None:
        message = f"the storage did not answer; {what}"
        failure = Failure(code="storage_unavailable", message=message, retryable=True)
        fail(self._store, self._metrics, claim, failure, reason=str(error))

    def _patiently(self, ask: Callable[[], T], lease: Lease) -> T:
        end, pause_s = time.monotonic() + self._patience_s, 0.1
        while True:
            try:
                return ask()
            except ResultsUnavailable as error:
                if time.monotonic() + pause_s > end:
                    raise
                event(
                    log, "store_again", logging.WARNING, render=lease.render_id, reason=str(error)
                )
            if lease.lost.wait(pause_s):
                raise ResultsUnavailable("the lease was lost while the storage did not answer")
            pause_s = min(pause_s * 2, 5.0)

    def _close(
        self, claim: Claim, outcome: StoredResult | Verdict, timings: dict[str, float]
    ) -> None:
        device_s = device_seconds(outcome.timings_s)
        with step("close"):
            closed = self._store.close(claim.render_id, claim.token, outcome, device_s=device_s)
        if not closed:
            current().tell(outcome="lost")
            event(log, "lost", logging.WARNING, **claim.who, state="storing")
            self._metrics.renders.labels("lost").inc()
            if isinstance(outcome, StoredResult):
                self._discard(outcome)
            return
        self._metrics.made(claim)
        current().tell(outcome="succeeded")
        for phase, seconds in timings.items():
            self._metrics.phase_seconds.labels(phase).observe(seconds)
        told = {f"{phase}_s": round(seconds, 4) for phase, seconds in timings.items()}
        if isinstance(outcome, Verdict):
            event(log, "verified", **claim.who, max_abs_diff=outcome.max_abs_diff, **told)
        else:
            event(log, "stored", **claim.who, bytes=outcome.size_bytes, **told)

    def _discard(self, result: StoredResult) -> None:
        """Another claim has the render now; it may have found this very picture, or may yet."""
        if self._store.condemn(result.fingerprint, result.token):
            self._results.delete(result)  # else gc takes it when it is nobody's
