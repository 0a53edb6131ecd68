"""From an order to a submission: defaults resolved, seed drawn, renders named."""

from __future__ import annotations

import secrets
from typing import TypeVar

from ulid import ULID

from api.auth import Owner
from api.schemas import NewJob
from shared.fingerprint import fingerprint
from shared.jobs import SEEDS, Job, RenderSpec, image_seed
from shared.models import ModelEntry
from shared.store.port import Order, Submission

Number = TypeVar("Number", int, float)


def admit(
    order: NewJob,
    entry: ModelEntry,
    owner: Owner,
    *,
    now: float,
    idempotency: tuple[str, str] | None = None,
) -> Submission:
    """A job of `order.n` renders; `now` in unix seconds."""
    spec = resolve(order, entry)
    job = Job(
        id=f"job_{ULID()}",
        owner=owner.name,
        input=_input(order, spec),
        cache=order.cache,
        priority=order.priority,
        metadata=order.metadata,
        created_at=now,
        deadline_at=None if order.deadline_s is None else now + order.deadline_s,
    )
    return Submission(job, [_order(spec, entry, k) for k in range(order.n)], idempotency)


def resolve(order: NewJob, entry: ModelEntry) -> RenderSpec:
    """What decides the pixels of image 0: the order's word, else the model entry's."""
    drawn = order.seed is None or order.seed < 0
    return RenderSpec(
        model=entry.id,
        model_digest=entry.digest,
        prompt=order.prompt,
        negative_prompt=order.negative_prompt,
        width=_either(order.width, entry.width),
        height=_either(order.height, entry.height),
        steps=_either(order.steps, entry.steps),
        guidance_scale=_either(order.guidance_scale, entry.guidance_scale),
        shift=_either(order.shift, entry.shift),
        seed=secrets.randbelow(SEEDS) if drawn else order.seed or 0,
    )


def _either(said: Number | None, default: Number) -> Number:
    return default if said is None else said


def _order(first: RenderSpec, entry: ModelEntry, index: int) -> Order:
    spec = first.model_copy(update={"seed": image_seed(first.seed, index)})
    cost_s = entry.predict_seconds(
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
    )
    return Order(str(ULID()), fingerprint(spec), spec, cost_s)


def _input(order: NewJob, spec: RenderSpec) -> dict[str, object]:
    return {
        "model": spec.model,
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "width": spec.width,
        "height": spec.height,
        "n": order.n,
        "seed": spec.seed,
        "steps": spec.steps,
        "guidance_scale": spec.guidance_scale,
        "shift": spec.shift,
        "loras": [],
        "init_image": None,
        "mask_image": None,
        "strength": None,
        "output_format": order.output_format,
        "output_compression": order.output_compression,
        "partial_images": 0,
    }
