"""A model is data: one `ModelEntry` per served model."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared import engines, presets
from shared.fingerprint import encode
from shared.jobs import pool_name

SIDE_MULTIPLE_PX = 16
Mode = Literal["txt2img", "img2img", "inpaint"]
Precision = Literal["fp32", "bf16", "fp16", "fp8", "fp8-storage", "int8", "nf4", "gguf"]
Preset = Literal["exact", "balanced", "draft"]
# The fastest first.
Placement = Literal["gpu", "text-offload", "model-offload", "group-offload", "sequential-offload"]
# The fields that decide pixels. Placement, compile and attention only round: they stand in a
# result's numeric profile instead, so that tuning a worker does not empty the cache.
PIXEL_FIELDS = ("source", "revision", "precision", "t5", "max_sequence_length", "engine")
# The same, but left out of the digest at their defaults: they came later, and what was cached
# before them stays good.
LATER_PIXEL_FIELDS = (
    "gguf_file",
    "vae_tiling",
    "skip_layers",
    "skip_layer_start",
    "skip_layer_stop",
)


class ModelEntry(BaseModel):
    """One model as it is served. `source` is `hf:REPO`, `modelscope:REPO`, `dir:FOLDER` or `tiny:OPTIONS`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str = ""
    licence: str = ""  # of the weights, for people
    source: str = Field(pattern=r"^(hf|modelscope|dir|tiny):")
    revision: str = ""
    precision: Precision = "bf16"  # of the transformer
    gguf_file: str = ""  # with precision `gguf`: inside the folder, or a path
    t5: Literal["on", "int8", "nf4", "fp8", "off"] = "on"  # `on`: in `compute_precision`
    max_sequence_length: int = Field(256, ge=1, le=512)
    vae_tiling: bool = False  # always; see allow_tiling for only where memory is short
    skip_layers: tuple[int, ...] = ()  # of skip-layer guidance; empty: an order cannot ask for it
    skip_layer_start: float = Field(0.01, ge=0, le=1)  # parts of the schedule
    skip_layer_stop: float = Field(0.2, ge=0, le=1)
    engine: Literal["diffusers", "onnx"] = "diffusers"

    profile: Literal["fast", "eco", "auto"] | None = None  # sets placement and compile
    placement: Placement = "gpu"
    compile: Literal["off", "regional", "full"] = "off"
    # `WxH`, compiled before the worker is ready, as its default size is
    warm_sizes: tuple[Annotated[str, Field(pattern=r"^[1-9][0-9]*x[1-9][0-9]*$")], ...] = ()
    preview_decoder: str = ""  # folder of an AutoencoderTiny such as TAESD3; empty: a fitted matrix
    attention: Literal["auto", "sdpa", "cudnn", "flash", "flash3", "efficient", "math"] = "auto"
    fuse_qkv: bool = False  # takes no LoRAs then
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"  # of engine `onnx`
    allow_tiling: bool = False  # what it draws is marked, so it stays out of PIXEL_FIELDS

    steps: int = Field(28, ge=1)
    guidance_scale: float = Field(4.5, ge=0, le=30)
    shift: float = Field(3.0, gt=0, le=20)
    skip_layer_guidance: float = Field(0.0, ge=0, le=10)  # its scale; 0: none
    preset: Preset = "exact"
    width: int = 1024
    height: int = 1024

    max_steps: int = Field(100, ge=1)
    min_side_px: int = Field(256, ge=16)
    max_side_px: int = 2048
    max_pixels: int = 2048 * 2048
    step_seconds: float = Field(0.2, gt=0)  # first guess: one step, one megapixel, no guidance
    modes: tuple[Mode, ...] = ("txt2img", "img2img", "inpaint")
    aliases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _draws_its_defaults(self) -> Self:
        """Orders are checked against the limits, and what an order leaves out is not."""
        for side in (side for size in self.sizes_to_warm for side in size):
            if side % SIDE_MULTIPLE_PX or not self.min_side_px <= side <= self.max_side_px:
                raise ValueError(f"the side {side} px is none that it can draw")
        if self.width * self.height > self.max_pixels or self.steps > self.max_steps:
            raise ValueError("its defaults are beyond max_pixels or max_steps")
        if self.skip_layer_guidance and not self.skip_layers:
            raise ValueError("skip_layer_guidance needs skip_layers")
        unfit = presets.unfit(self.preset, self, skip_layer_guidance=self.skip_layer_guidance)
        if unfit:
            raise ValueError(f"preset {self.preset}: {unfit}")
        return self

    @model_validator(mode="after")
    def _suits_its_engine(self) -> Self:
        if reason := engines.unfit(self):
            raise ValueError(f"engine {self.engine}: {reason}")
        return self

    @property
    def digest(self) -> str:
        """64 hex digits over the fields that decide pixels; part of every fingerprint."""
        fields = self.model_dump(mode="json", include={*PIXEL_FIELDS, *LATER_PIXEL_FIELDS})
        defaults = {name: type(self).model_fields[name].default for name in LATER_PIXEL_FIELDS}
        for name, default in defaults.items():
            if getattr(self, name) == default:
                del fields[name]
        return hashlib.sha256(encode(fields)).hexdigest()

    @property
    def compute_precision(self) -> Literal["fp32", "bf16", "fp16"]:
        """What is multiplied in, and what everything is held in that is not quantized."""
        if self.precision == "fp32" or self.precision == "fp16":
            return self.precision
        return "fp32" if self.engine == "onnx" and self.precision == "int8" else "bf16"

    @property
    def sizes_to_warm(self) -> tuple[tuple[int, int], ...]:
        """Width and height, px; the default first, each once."""
        others = (size.partition("x") for size in self.warm_sizes)
        sizes = ((self.width, self.height), *((int(wide), int(tall)) for wide, _, tall in others))
        return tuple(dict.fromkeys(sizes))

    @property
    def pool(self) -> str:
        return pool_name(self.id, self.digest)

    @property
    def random_weights(self) -> bool:
        """True where the model was never trained: whatever it draws is noise."""
        return self.source.startswith("tiny:")

    @property
    def distilled(self) -> bool:
        """True where the model was trained for few steps without guidance: more make it no better."""
        return self.guidance_scale <= 1

    @property
    def takes_loras(self) -> bool:
        """Whether adapters can be hung into its transformer, and taken off again, as it is held.

        Refused by the library: storage in fp8, and hooks that move layer by layer. Frozen: CUDA
        graphs and an ONNX graph. Without the layers that a LoRA names: fused ones. Never tried here
        for want of a card: fp8 and nf4.
        """
        held = self.precision not in ("fp8", "fp8-storage", "nf4")
        moves = self.placement != "sequential-offload"
        kept = held and moves and not self.fuse_qkv
        return kept and self.engine == "diffusers" and self.compile != "full"

    def size_like(self, width: int, height: int) -> tuple[int, int]:
        """About as many pixels as the default size has, in the shape of `width` x `height`."""
        scale = math.sqrt(self.width * self.height / (width * height))
        limit = self.max_side_px // SIDE_MULTIPLE_PX * SIDE_MULTIPLE_PX
        least = math.ceil(self.min_side_px / SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX

        def side(px: int) -> int:
            nearest = round(px * scale / SIDE_MULTIPLE_PX) * SIDE_MULTIPLE_PX
            return min(max(nearest, least), limit)

        wide, tall = side(width), side(height)
        while wide * tall > self.max_pixels:  # rounding may step over it
            wide, tall = max(least, wide - SIDE_MULTIPLE_PX), max(least, tall - SIDE_MULTIPLE_PX)
        return wide, tall

    def predict_seconds(
        self,
        *,
        width: int,
        height: int,
        steps: int,
        guidance_scale: float,
        skip_layer_guidance: float = 0.0,
        preset: str = "exact",
    ) -> float:
        """Device seconds of one image by this entry's first guess; workers measure the true rate.

        Linear in steps and pixels, doubled by guidance, which skip-layer guidance adds a pass to
        for as long as it acts, and which a preset ends early; what else a preset spares is seen
        only while it draws. The two steps stand for text and decode.
        """
        guided = guidance_scale > 1
        passes = (2 * steps if guided else steps) * presets.share_of_passes(
            preset, steps=steps, guided=guided
        )
        if guided and skip_layer_guidance:
            passes += self.skipping_steps(steps)
        return self.step_seconds * (passes + 2) * width * height / 2**20

    def skipping_steps(self, steps: int) -> int:
        """In how many of the steps skip-layer guidance acts.

        Source: the denoising loop of diffusers' `StableDiffusion3Pipeline`.
        """
        first, last = steps * self.skip_layer_start, steps * self.skip_layer_stop
        return sum(first < step < last for step in range(steps))
