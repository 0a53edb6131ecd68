"""From an order to a submission: defaults resolved, seed drawn, renders named."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, TypeVar

from ulid import ULID

from api.auth import Owner
from api.inputs import NOTHING, Given
from api.schemas import NewJob
from api.webhooks import webhook_of
from shared import presets
from shared.errors import InvalidOrder, JobFinished, JobNotFinished
from shared.fingerprint import fingerprint, owned
from shared.jobs import (
    RECORD_VERSION,
    SEEDS,
    Job,
    JobImage,
    JobStatus,
    LoraRef,
    RenderSpec,
    StoredResult,
    image_seed,
)
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.store.values import (
    Order,
    Submission,
)

STRENGTH = 0.6
NO_LORAS: Mapping[str, LoraEntry] = MappingProxyType({})
Number = TypeVar("Number", int, float)


def admit(
    order: NewJob,
    entry: ModelEntry,
    owner: Owner,
    *,
    now: float,
    idempotency: tuple[str, str] | None = None,
    given: Given = NOTHING,
    loras: Mapping[str, LoraEntry] = NO_LORAS,
    base: str = "",
) -> Submission:
    """A job of `order.n` renders; `now` in unix seconds; `given` are its input pictures.

    `loras` are the farm's, by name; `base` is how the client spells the farm's own URL.
    """
    spec = resolve(order, entry, given, loras)
    job = Job(
        id=f"job_{ULID()}",
        owner=owner.name,
        input=_input(order, spec, given),
        cache=order.cache,
        priority=order.priority,
        metadata=order.metadata,
        webhook=webhook_of(order.webhook, base),
        created_at=now,
        deadline_at=None if order.deadline_s is None else now + order.deadline_s,
    )
    specs = (spec.model_copy(update={"seed": image_seed(spec.seed, k)}) for k in range(order.n))
    return Submission(job, [_order(each, entry) for each in specs], idempotency)


def again(
    old: Job,
    entry: ModelEntry,
    *,
    now: float,
    idempotency: tuple[str, str] | None = None,
    loras: Mapping[str, LoraEntry] = NO_LORAS,
) -> Submission:
    """The same job once more, for its owner: pictures it has answer from the cache.

    A bypassing job is rendered anew as a whole. `entry` is what its model is today, and `loras` the
    farm's: if they have changed, so do the pixels. Raises JobNotFinished, JobFinished (it
    succeeded), InvalidOrder (they have changed so that it cannot be ordered).
    """
    if not old.done:
        raise JobNotFinished
    if old.status is JobStatus.succeeded:
        raise JobFinished
    deadline_s = None if old.deadline_at is None else old.deadline_at - old.created_at
    job = old.model_copy(
        update={
            "id": f"job_{ULID()}",
            "retries": old.id,
            "images": (),
            "created_at": now,
            "deadline_at": None if deadline_s is None else now + deadline_s,
            "cancel_requested_at": None,
            "version": RECORD_VERSION,
        }
    )
    if old.verifies:  # its pictures must be those of the entry as it was
        orders = [_same(image, entry, image.render.against) for image in old.images]
        return Submission(job, orders, idempotency)
    specs = (_today(image.render.spec, entry, loras) for image in old.images)
    return Submission(job, [_order(spec, entry) for spec in specs], idempotency)


def _today(spec: RenderSpec, entry: ModelEntry, loras: Mapping[str, LoraEntry]) -> RenderSpec:
    """Raises InvalidOrder."""
    if spec.loras and not entry.takes_loras:
        raise InvalidOrder("unsupported_for_model", f"{entry.id} takes no LoRAs any more", "loras")
    if spec.skip_layer_guidance and not entry.skip_layers:
        message = f"{entry.id} has no layers to skip any more"
        raise InvalidOrder("unsupported_for_model", message, "skip_layer_guidance")
    presets.check(spec.preset, entry, skip_layer_guidance=spec.skip_layer_guidance)
    named = tuple(_lora(lora.name, lora.scale, loras) for lora in spec.loras)
    update = {"model": entry.id, "model_digest": entry.digest, "loras": named}
    return spec.model_copy(update=update)


def _lora(name: str, scale: float, loras: Mapping[str, LoraEntry]) -> LoraRef:
    """Raises InvalidOrder."""
    if name not in loras:
        raise InvalidOrder("lora_not_found", f"this farm has no LoRA {name!r}", "loras")
    return LoraRef(name=name, sha256=loras[name].sha256, scale=scale)


def scoped(submission: Submission, scope: Literal["shared", "owner"]) -> Submission:
    """The submission with its renders where its owner, or everybody, finds them."""
    if scope == "shared":
        return submission
    owner = submission.job.owner
    orders = [replace(o, fingerprint=owned(o.fingerprint, owner)) for o in submission.orders]
    return replace(submission, orders=orders)


def verification(
    old: Job,
    image: JobImage,
    stored: StoredResult,
    entry: ModelEntry,
    *,
    now: float,
    idempotency: tuple[str, str] | None = None,
) -> Submission:
    """One image of a job once more, for its owner, to be compared with its stored picture.

    Raises InvalidOrder if its model is not what it was: other pixels would prove nothing.
    """
    job = Job(
        id=f"job_{ULID()}",
        owner=old.owner,
        input=old.input | {"n": 1, "seed": image.render.spec.seed},
        cache="bypass",
        priority=old.priority,
        metadata=old.metadata,
        verifies=old.id,
        created_at=now,
    )
    return Submission(job, [_same(image, entry, stored)], idempotency)


def _same(image: JobImage, entry: ModelEntry, against: StoredResult | None) -> Order:
    spec = image.render.spec
    if spec.model_digest != entry.digest:
        message = "the model has changed since this picture was rendered"
        raise InvalidOrder("unsupported_for_model", message, "model")
    return replace(_order(spec, entry), against=against)


def resolve(
    order: NewJob,
    entry: ModelEntry,
    given: Given = NOTHING,
    loras: Mapping[str, LoraEntry] = NO_LORAS,
) -> RenderSpec:
    """What decides the pixels of image 0: the order's word, else the model entry's.

    Raises InvalidOrder for words that do not go together.
    """
    preset = order.preset or entry.preset
    skip_layer_guidance = _either(order.skip_layer_guidance, entry.skip_layer_guidance)
    presets.check(preset, entry, skip_layer_guidance=skip_layer_guidance)
    drawn = order.seed is None or order.seed < 0
    width, height = entry.width, entry.height
    if given.init and order.width is None and order.height is None:
        width, height = entry.size_like(given.init.width, given.init.height)
    return RenderSpec(
        model=entry.id,
        model_digest=entry.digest,
        prompt=order.prompt,
        negative_prompt=order.negative_prompt,
        width=_either(order.width, width),
        height=_either(order.height, height),
        steps=_either(order.steps, entry.steps),
        guidance_scale=_either(order.guidance_scale, entry.guidance_scale),
        shift=_either(order.shift, entry.shift),
        seed=secrets.randbelow(SEEDS) if drawn else order.seed or 0,
        init_image_sha256=given.init.sha256 if given.init else None,
        mask_image_sha256=given.mask.sha256 if given.mask else None,
        strength=_either(order.strength, STRENGTH) if given.init else None,
        loras=tuple(_lora(lora.name, lora.scale, loras) for lora in order.loras),
        skip_layer_guidance=skip_layer_guidance,
        preset=preset,
    )


def _either(said: Number | None, default: Number) -> Number:
    return default if said is None else said


def _order(spec: RenderSpec, entry: ModelEntry) -> Order:
    cost_s = entry.predict_seconds(
        width=spec.width,
        height=spec.height,
        steps=spec.steps_to_run,
        guidance_scale=spec.guidance_scale,
        skip_layer_guidance=spec.skip_layer_guidance,
        preset=spec.preset,
    )
    return Order(str(ULID()), fingerprint(spec), spec, cost_s)


def _input(order: NewJob, spec: RenderSpec, given: Given) -> dict[str, object]:
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
        "skip_layer_guidance": spec.skip_layer_guidance,
        "loras": [{"name": lora.name, "scale": lora.scale} for lora in spec.loras],
        "preset": spec.preset,
        "init_image": given.init.shown() if given.init else None,
        "mask_image": given.mask.shown() if given.mask else None,
        "strength": spec.strength,
        "output_format": order.output_format,
        "output_compression": order.output_compression,
        "partial_images": order.partial_images,
    }
