"""The name of a render: a hash of everything that decides its pixels, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from shared.jobs import RenderSpec
from shared.presets import recipe_of

VERSION = 1
# How the first noise is drawn: CPU generator, fp32, one image at a time. Another way, another id.
NOISE_RECIPE = "cpu-fp32-v1"
# How an input picture becomes the start: scaled and cropped to cover, the mean of the encoder,
# and outside the mask the input's own pixels. Only orders with a picture carry it.
INPUT_RECIPE = "cover-mean-v1"


def fingerprint(spec: RenderSpec) -> str:
    """64 hex digits. Equal for two orders exactly if they ask for the same pixels."""
    return hashlib.sha256(canonical(spec)).hexdigest()


def canonical(spec: RenderSpec) -> bytes:
    """Sorted, compact UTF-8 JSON of the order with everything that has no effect taken out."""
    fields = spec.model_dump(mode="json", exclude={"model", "loras"})
    if not spec.guidance_scale > 1:  # no guidance: the negative prompt is never read
        fields |= {"guidance_scale": 0.0, "negative_prompt": ""}
    if spec.init_image_sha256 is None:
        fields |= {"strength": None, "mask_image_sha256": None}
    else:
        fields["input"] = INPUT_RECIPE
    if recipe := recipe_of(spec.preset):
        fields["preset"] = recipe.id
    else:
        del fields["preset"]
    if not spec.skip_layer_guidance or not spec.guidance_scale > 1:  # it works on top of guidance
        del fields["skip_layer_guidance"]
    fields["loras"] = [[lora.sha256, lora.scale] for lora in spec.loras if lora.scale]
    return encode({"version": VERSION, "noise": NOISE_RECIPE, **fields})


def owned(fingerprint: str, owner: str) -> str:
    """The name under which only this owner's orders find the render: `<fingerprint>-<32 hex>`."""
    return f"{fingerprint}-{hashlib.sha256(owner.encode()).hexdigest()[:32]}"


def pure(name: str) -> str:
    """The fingerprint in a render's name, which the same order gives whoever makes it."""
    return name.partition("-")[0]


def encode(value: dict[str, Any]) -> bytes:
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()
