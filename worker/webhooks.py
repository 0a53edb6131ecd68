"""The courier: delivers webhooks that are due, beside the other chores and never in their way.

It may run in any number of processes: each delivery is leased in the store for one attempt. Whoever
dies in the middle leaves a lease that ends, and the delivery is tried again under the same id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition, Thread

from prometheus_client import CollectorRegistry
from ulid import ULID

from shared.errors import FarmError, JobNotFound, OutboundFailed, StoreUnavailable, UrlNotAllowed
from shared.jobs import Job, Webhook
from shared.links import Links
from shared.logs import event
from shared.metrics import ChoresMetrics
from shared.outbound import Outbound, trust
from shared.settings import Settings
from shared.signing import Signer
from shared.store.outbox import Attempt, Delivery, State
from shared.store.port import JobStore
from shared.traces import NOWHERE, NoTraces, Traces, current, headers_of, within
from shared.views import job_view
from shared.webhooks import GONE, TIMEOUT_S, body_of, new_secret, pause_s, signed, trusted_hosts

log = logging.getLogger("farm.webhooks")
SLOTS = 64  # attempts under way in one process; each has a thread of its own
LEASE_S = TIMEOUT_S + 5.0  # looking a name up may outlast it: then there are two tries, of one id
LOOK_S = 0.25
AWAY_S = 1.0  # between looks while the store does not answer


class Courier:
    """Starts with `start`, ends with `stop`; in between it needs nobody."""

    def __init__(
        self,
        store: JobStore,
        outbound: Outbound,
        links: Callable[[str], Links],
        retention_s: float,
        *,
        lease_s: float = LEASE_S,
        metrics: ChoresMetrics | None = None,
        traces: Traces | None = None,
    ) -> None:
        """`links`: those of the farm, from how a client spells its URL; times in seconds."""
        self._lease_s = lease_s
        self._metrics = metrics or ChoresMetrics(CollectorRegistry())
        self._traces = traces or NoTraces()
        self._store = store
        self._outbound = outbound
        self._links = links
        self._retention_s = retention_s
        self._changed = Condition()
        self._under_way = 0
        self._stopping = False
        self._dispatcher = Thread(target=self._dispatch, name="webhooks", daemon=True)

    @staticmethod
    def of(
        settings: Settings,
        store: JobStore,
        *,
        lease_s: float = LEASE_S,
        metrics: ChoresMetrics | None = None,
        traces: Traces | None = None,
    ) -> Courier:
        """Raises SettingsError."""
        signer = Signer(settings, store)
        outbound = Outbound(trusted_hosts(settings), trust(settings.webhook_ca_file))
        retention_s = settings.job_retention_s
        return Courier(
            store, outbound, lambda base: Links(base, signer), retention_s, lease_s=lease_s,
            metrics=metrics, traces=traces,
        )  # fmt: skip

    def start(self) -> None:
        self._dispatcher.start()

    def stop(self, limit_s: float = 5.0) -> None:
        """Begin nothing more. What is still under way after `limit_s` is tried again elsewhere."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._under_way, limit_s)
        self._dispatcher.join(limit_s)

    def _dispatch(self) -> None:
        answered = True
        while not self._stopping:
            try:
                for delivery in self._claim():
                    self._send_off(delivery)
                answered = True
            except FarmError as error:
                if answered:
                    event(log, "no_deliveries", logging.WARNING, reason=str(error))
                answered = False
            except Exception:
                log.exception("internal error of the courier")
                answered = False
            self._rest(LOOK_S if answered else AWAY_S)

    def _claim(self) -> list[Delivery]:
        free = SLOTS - self._under_way
        return (
            self._store.claim_deliveries(f"courier {ULID()}", free, self._lease_s) if free else []
        )

    def _rest(self, seconds: float) -> None:
        """Until a slot becomes free, or for so long."""
        with self._changed:
            if not self._stopping:
                self._changed.wait(seconds)

    def _send_off(self, delivery: Delivery) -> None:
        with self._changed:
            self._under_way += 1
        Thread(target=self._carry, args=(delivery,), name=delivery.id, daemon=True).start()

    def _carry(self, delivery: Delivery) -> None:
        try:
            with self._metrics.webhooks_flying.track_inprogress():
                self.deliver(delivery)
        except JobNotFound:
            pass  # the store drops what belongs to no job
        except StoreUnavailable as error:  # its lease ends, and it is tried again
            event(log, "unsettled", logging.WARNING, delivery=delivery.id, reason=str(error))
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def deliver(self, delivery: Delivery) -> None:
        """One attempt, and its note in the store. Raises StoreUnavailable, JobNotFound."""
        with ExitStack() as spans:
            self._deliver(delivery, spans)

    def _deliver(self, delivery: Delivery, spans: ExitStack) -> None:
        try:
            attempt = self._try(delivery, spans)
        except (StoreUnavailable, JobNotFound):
            raise
        except Exception:
            log.exception("internal error in delivery %s", delivery.id)
            attempt = Attempt(error="internal error of the farm", ms=0)
        if attempt is None:  # somebody else holds it by now
            return
        state, pause = verdict(attempt.status, delivery.tries + 1)
        _tell(attempt, state)
        if self._store.settle_delivery(delivery, attempt, state, pause):
            _note(delivery, attempt, state)

    def _try(self, delivery: Delivery, spans: ExitStack) -> Attempt | None:
        job = self._store.get(delivery.job_id)
        spans.enter_context(self._span(job, delivery))
        webhook = job.webhook
        body = self._body(job, webhook, delivery) if webhook else None
        if webhook is None or body is None:
            return None
        started = time.monotonic()
        with self._metrics.webhook_seconds.time():
            status, error = self._post(webhook.url, delivery, body)
        return Attempt(status=status, error=error, ms=round((time.monotonic() - started) * 1000))

    @contextmanager
    def _span(self, job: Job, delivery: Delivery) -> Iterator[None]:
        """This attempt in the trace of its job."""
        span = self._traces.begin("webhook", "client", job.trace) if job.trace else NOWHERE
        span.tell(
            job=job.id, delivery=delivery.id, event=delivery.event, attempt=delivery.tries + 1
        )
        try:
            with within(span):
                yield
        finally:
            span.end()

    def _body(self, job: Job, webhook: Webhook, delivery: Delivery) -> str | None:
        """The same for every attempt: made at the first, and stored before it is sent."""
        if delivery.body is not None:
            return delivery.body
        links = self._links(webhook.base)
        view = job_view(job, links, now=time.time(), retention_s=self._retention_s)
        return self._store.freeze_delivery(delivery, body_of(delivery.event, delivery.at, view))

    def _post(self, url: str, delivery: Delivery, body: str) -> tuple[int | None, str | None]:
        secrets = self._store.webhook_secrets(delivery.owner, new_secret())
        headers = signed(secrets, delivery.id, time.time(), body) | headers_of(current().context)
        try:
            return self._outbound.post(url, headers, body.encode(), limit_s=TIMEOUT_S), None
        except UrlNotAllowed as refusal:
            return None, f"the URL {refusal}"
        except OutboundFailed as failure:
            return None, str(failure)


def verdict(status: int | None, tries: int) -> tuple[State, float]:
    """What becomes of a delivery after so many tries, and seconds until the next."""
    if status is not None and 200 <= status < 300:
        return "delivered", 0.0
    pause = pause_s(tries)
    if status == GONE or pause is None:
        return ("gone" if status == GONE else "failed"), 0.0
    return "waiting", pause


def _tell(attempt: Attempt, state: State) -> None:
    span = current()
    span.tell(outcome=state)
    if attempt.status is not None:
        span.tell(status=attempt.status)
    if state != "delivered":
        span.fail(str(attempt.status) if attempt.status else "not_delivered")


def _note(delivery: Delivery, attempt: Attempt, state: State) -> None:
    """Never the URL: it may hold a secret of its receiver."""
    level = logging.INFO if state == "delivered" else logging.WARNING
    event(
        log, "webhook", level, job=delivery.job_id, delivery=delivery.id, outcome=state,
        status=attempt.status, reason=attempt.error, ms=attempt.ms, attempt=delivery.tries + 1,
    )  # fmt: skip
