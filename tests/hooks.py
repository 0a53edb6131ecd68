"""Jobs with a webhook, and what a courier does with their deliveries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ulid import ULID

from api.webhooks import FINAL_EVENTS
from shared.jobs import Webhook
from shared.ssrf import take_apart
from shared.store.outbox import Attempt, Delivery
from shared.store.port import JobStore
from shared.store.values import Claim, Submission
from tests.orders import POOL, stored, submission

URL = "https://hooks.example/a"
BASE = "https://farm.example/v1"


def hooked(url: str = URL, events: tuple[str, ...] = FINAL_EVENTS, **fields: Any) -> Submission:
    """An order of the test's owner that wants to be told."""
    plain = submission(**fields)
    webhook = Webhook.model_validate(
        {"url": url, "events": events, "lane": take_apart(url).origin, "base": BASE}
    )
    said = {**plain.job.input, "model": "tiny", "prompt": "a fox", "output_format": "png"}
    return replace(plain, job=plain.job.model_copy(update={"webhook": webhook, "input": said}))


def ended(store: JobStore, order: Submission | None = None) -> str:
    """The id of a job with a webhook that has just succeeded."""
    job = store.submit(order or hooked(cache="bypass")).job
    finish(store, run(store))
    return job.id


def run(store: JobStore, token: str | None = None) -> Claim:
    taken = store.claim(POOL, token or str(ULID()), "slot", "worker", 30.0)
    assert taken is not None
    return taken


def finish(store: JobStore, taken: Claim) -> None:
    assert store.close(taken.render_id, taken.token, stored(taken.fingerprint, taken.token))


def take(store: JobStore, most: int = 100, lease_s: float = 30.0) -> list[Delivery]:
    return store.claim_deliveries(str(ULID()), most, lease_s)


def names(found: list[Delivery]) -> list[tuple[str, str]]:
    return sorted((each.job_id, each.name) for each in found)


def answered(status: int | None = 204, error: str | None = None) -> Attempt:
    return Attempt(status=status, error=error, ms=12)
