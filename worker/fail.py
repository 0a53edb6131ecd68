"""The end of a render that could not be made: one close, one line in the log, one count."""

from __future__ import annotations

import logging
from typing import Any

from shared.jobs import Failure
from shared.logs import event
from shared.metrics import WorkerMetrics
from shared.store.port import JobStore
from shared.store.values import (
    Claim,
    Delayed,
)
from shared.traces import current

log = logging.getLogger("farm.worker")


def fail(
    store: JobStore,
    metrics: WorkerMetrics,
    claim: Claim,
    failure: Failure,
    level: int = logging.WARNING,
    **fields: Any,
) -> None:
    """Close the render with `failure`, and say what the store made of it: final, retry or lost.

    Raises StoreUnavailable.
    """
    match store.close(claim.render_id, claim.token, failure):
        case Delayed(number, pause_s):
            outcome, action = "retried", "retrying"
            fields |= {"retry": number, "delay_s": round(pause_s, 3)}
        case False:
            outcome = action = "lost"
        case _:
            outcome = action = "failed"
    metrics.renders.labels(outcome).inc()
    current().tell(outcome=outcome)
    current().fail(failure.code)
    event(log, action, level, **claim.who, code=failure.code, **fields)
