"""Between the values of shared/jobs.py and what the scripts read and write."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from shared.errors import IdempotencyConflict, NotStored, QueueFull
from shared.jobs import (
    RECORD_VERSION,
    Dropped,
    Failure,
    Job,
    JobImage,
    Render,
    RenderSpec,
    RenderState,
    StoredResult,
    TraceContext,
    Verdict,
    as_left,
)
from shared.store.limits import too_much, too_often
from shared.store.values import (
    Claim,
    Delayed,
    Moved,
    Order,
    Outcome,
    Poison,
    Rate,
    Submission,
    Submitted,
    WorkerStatus,
)

_RECORD = {
    "id",
    "owner",
    "input",
    "cache",
    "priority",
    "metadata",
    "webhook",
    "retries",
    "verifies",
    "version",
}
_NOTHING = Render(
    id="",
    fingerprint="",
    pool="",
    spec=RenderSpec(
        model="", model_digest="", prompt="", width=0, height=0, steps=0,
        guidance_scale=0, shift=0, seed=0,
    ),
    state=RenderState.failed,
    queued_at=0,
    error=Failure(code="internal_error", message="the record of this render is gone"),
)  # fmt: skip


def encode_submission(submission: Submission, weight: float, max_queue: int) -> dict[str, Any]:
    """Times are the store's own: a deadline travels as seconds from now."""
    job = submission.job
    fields: dict[str, Any] = {
        "job": job.id,
        "owner": job.owner,
        "priority": job.priority,
        "weight": weight,
        "max_queue": max_queue,
        "limits": {
            "per_min": submission.limits.submits_per_min,
            "queued": submission.limits.max_queued,
            "queued_ms": submission.limits.max_queued_gpu_s * 1000,
        },
        "bypass": job.cache == "bypass",
        "previews": job.input.get("partial_images", 0),
        "version": RECORD_VERSION,
        "record": job.model_dump_json(include=_RECORD),
        "images": [_encode_order(order) for order in submission.orders],
    }
    if job.deadline_at is not None:
        fields["deadline_s"] = job.deadline_at - job.created_at
    if job.webhook:
        fields["hook"] = " ".join([job.webhook.lane, *job.webhook.events])
    if job.trace:
        fields["trace"] = job.trace.model_dump_json()
    if submission.idempotency:
        key, body = submission.idempotency
        fields["idempotency"] = {"key": key, "body": body}
    if submission.stored_only:
        fields["stored_only"] = True
    if submission.attendance:
        fields["attendance"] = asdict(submission.attendance)
    return fields


def decode_submitted(submission: Submission, answer: list[Any]) -> Submitted:
    """Raises what the answer says: QueueFull, RateExceeded, QuotaExceeded, InvalidOrder or
    IdempotencyConflict.
    """
    how, *said = answer
    match how:
        case "conflict":
            raise IdempotencyConflict
        case "not_stored":
            raise NotStored
        case "full":
            raise QueueFull(retry_after_s=_known(said[0]))
    limits = submission.limits
    left, reset_s = said[-2:]
    rate = None if left < 0 else Rate(limits.submits_per_min, left, float(reset_s))
    match how:
        case "limited":
            raise too_often(float(said[0]), rate)
        case "quota":
            wait_s, what, needed = said[:3]
            raise too_much(limits, what, float(needed), _known(wait_s), rate)
    seen, hits, attached, made = said[:4]
    return Submitted(decode_job(seen), how == "replayed", hits, attached, made, rate)


def _known(wait_s: str) -> float | None:
    return None if float(wait_s) < 0 else float(wait_s)


def _encode_order(order: Order) -> dict[str, Any]:
    fields = {
        "render": order.render_id,
        "fingerprint": order.fingerprint,
        "pool": order.spec.pool,
        "spec": order.spec.model_dump_json(),
        "cost": order.cost_s,
    }
    return fields | ({"against": order.against.model_dump_json()} if order.against else {})


def encode_outcome(outcome: Outcome) -> tuple[str, str, str]:
    """(state, field, its JSON)."""
    if isinstance(outcome, Verdict):
        return "succeeded", "verdict", outcome.model_dump_json()
    if isinstance(outcome, StoredResult):
        return "succeeded", "result", outcome.model_dump_json()
    if isinstance(outcome, Failure):
        return "failed", "error", outcome.model_dump_json()
    return "canceled", "", ""


def decode_closed(answer: list[Any]) -> bool | Delayed:
    """From {'lost'}, {'closed'} or {'retrying', number, seconds}."""
    if answer[0] == "retrying":
        return Delayed(answer[1], float(answer[2]))
    return bool(answer[0] == "closed")


def decode_job(seen: list[Any]) -> Job:
    """From a snapshot: [now, job hash, [render, its hash, rank or -1, rate, work ahead], ...]."""
    fields = _pairs(seen[1])
    images = tuple(_image(index, entry, fields) for index, entry in enumerate(seen[2:]))
    return Job.model_validate(
        {
            **json.loads(fields["record"]),
            "created_at": fields["created_at"],
            "deadline_at": fields.get("deadline_at"),
            "cancel_requested_at": fields.get("cancel_requested_at"),
            "trace": _trace(fields.get("trace")),
            "images": images,
            "last_event": fields["newest"] or None,
        }
    )


def _trace(line: str | None) -> TraceContext | None:
    return TraceContext.model_validate_json(line) if line else None


def _image(index: int, entry: list[Any], job: dict[str, str]) -> JobImage:
    render_id, flat, rank, rate, ahead_s = entry
    render = _render(render_id, _pairs(flat), float(job["created_at"]))
    if line := job.get(f"drop:{index}"):
        why, at = line.split(" ")
        dropped: Dropped = "expired" if why == "expired" else "canceled"
        left = _left(render, job.get(f"left:{index}"))
        return JobImage(
            index=index, render=left, cached=False, dropped=dropped, dropped_at=float(at)
        )
    return JobImage(
        index=index,
        render=render,
        cached=render.found or f"cached:{index}" in job,
        position=rank if rank >= 0 else None,
        rate=rate or None,
        ahead_s=ahead_s or None,
    )


def _left(render: Render, line: str | None) -> Render:
    """None: it was dropped before this was written down."""
    if line is None:
        return as_left(render, render.attempt, render.step, render.started_at)
    attempt, step, started_at = line.split(" ")
    return as_left(render, int(attempt), int(step), float(started_at) if started_at else None)


def _render(render_id: str, fields: dict[str, str], created_at: float) -> Render:
    if not fields:  # expired before its job: cannot be, but a client must still get an answer
        return _NOTHING.model_copy(
            update={"id": render_id, "queued_at": created_at, "finished_at": created_at}
        )
    values: dict[str, Any] = {**fields, "id": render_id, "cost_s": fields.get("cost", 0)}
    for name in ("spec", "result", "error", "against", "verdict"):
        if name in values:
            values[name] = json.loads(values[name])
    return Render.model_validate(values)


def decode_claim(answer: list[Any]) -> Claim:
    render_id, flat, waiters, now, traces = answer
    fields = _pairs(flat)
    against = fields.get("against")
    return Claim(
        render_id=render_id,
        token=fields["token"],
        fingerprint=fields["fingerprint"],
        spec=RenderSpec.model_validate_json(fields["spec"]),
        attempt=int(fields["attempt"]),
        fresh="fresh" in fields,
        jobs=tuple(sorted({waiter.rpartition(":")[0] for waiter in waiters})),
        worker=fields["worker"],
        queued_at=float(fields["queued_at"]),
        claimed_at=float(now),
        against=StoredResult.model_validate_json(against) if against else None,
        previews=int(fields.get("previews", 0)),
        traces=tuple(TraceContext.model_validate_json(line) for _, line in sorted(traces)),
    )


def decode_moved(flat: list[str]) -> Moved:
    """From [render, the state it is in now, ...]."""
    moved = _pairs(flat)
    return Moved(
        requeued=tuple(render for render, state in moved.items() if state == "queued"),
        failed=tuple(render for render, state in moved.items() if state == "failed"),
    )


def decode_poison(entry: list[Any]) -> Poison:
    """From {render, render hash, owners}."""
    render_id, flat, owners = entry
    fields = _pairs(flat)
    return Poison(
        render_id=render_id,
        fingerprint=fields["fingerprint"],
        spec=RenderSpec.model_validate_json(fields["spec"]),
        jobs=tuple(fields["jobs"].split()),
        owners=tuple(sorted(set(owners))),
        attempts=int(fields["attempt"]),
        losses=int(fields["losses"]),
        failed_at=float(fields["finished_at"]),
        error=Failure.model_validate_json(fields["error"]),
    )


def decode_worker(entry: list[Any], now: float) -> WorkerStatus:
    """From [line in the hash of workers, last death or None, renders held]."""
    line, death, holding = entry
    seen, ttl, status = line.split(" ", 2)
    fields = {**json.loads(status), "last_seen_at": float(seen), "holding": holding}
    if death:
        at, cause = death.split(" ")
        fields["last_death"] = {"at": float(at), "cause": cause}
    if now - float(seen) > float(ttl):
        fields["state"] = "lost"
    return WorkerStatus.model_validate(fields)


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
