"""Where a render joins the trace of the job that it is made for."""

from __future__ import annotations

from shared.store.values import Claim
from shared.traces import NOWHERE, Span, Traces


def render_span(traces: Traces, claim: Claim, asked_at: float) -> Span:
    """The span of a render that was just claimed; `asked_at`, unix seconds, is when for.

    It belongs to the oldest job that waits for it, and is linked to the others. Who lets go of the
    lease ends it. Beside it stand the claim and, at the first attempt, the wait in the queue: its
    length is told by the store's clock, its end by this host's.
    """
    if not claim.traces:  # a trace that began here would tell of no order
        return NOWHERE
    job, *others = claim.traces
    if claim.attempt == 1:
        waited_s = max(0.0, claim.claimed_at - claim.queued_at)
        _past("queue", traces, claim, asked_at - waited_s, asked_at)
    _past("claim", traces, claim, asked_at)
    span = traces.begin("render", "consumer", job, links=others)
    spec = claim.spec
    span.tell(model=spec.model, pool=spec.pool, steps=spec.steps_to_run)
    span.tell(width=spec.width, height=spec.height)
    _name(span, claim)
    return span


def _past(
    name: str, traces: Traces, claim: Claim, started_at: float, ended_at: float | None = None
) -> None:
    span = traces.begin(name, "internal", claim.traces[0], started_at=started_at)
    _name(span, claim)
    span.end(ended_at)


def _name(span: Span, claim: Claim) -> None:
    span.tell(render=claim.render_id, worker=claim.worker, attempt=claim.attempt)
    span.tell(job=",".join(claim.jobs))
