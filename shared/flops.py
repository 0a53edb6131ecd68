"""How much arithmetic one SD3.5 render is: exact for the transformer, pure, no torch.

One multiply-add is 2 FLOP. Only matrix products and attention count; norms, activations and the
scheduler do not, as in torch's own counter, which these formulas equal. The text encoders and the
decoder are left out, and what LoRAs add: a rate over them all would say little of the part that a render waits for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from shared.jobs import RenderSpec

LATENT_PX = 8  # a latent's side
CLIP_TOKENS = 77  # before the T5 tokens of every prompt
TIME_FEATURES = 256  # sines and cosines of the timestep
TERA = 1e12


@dataclass(slots=True, frozen=True)
class Mmdit:
    """The shape of one transformer. `dual`: the layers with a second attention, of the image alone."""

    layers: int
    dual: frozenset[int]
    width: int
    text_width: int
    pooled_width: int
    patch: int  # latents on a side of one image token
    channels_in: int
    channels_out: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Mmdit:
        """From the `config` of diffusers' SD3Transformer2DModel, or its config.json."""
        channels = config["in_channels"]
        return cls(
            layers=config["num_layers"],
            dual=frozenset(config.get("dual_attention_layers") or ()),
            width=config["num_attention_heads"] * config["attention_head_dim"],
            text_width=config["joint_attention_dim"],
            pooled_width=config["pooled_projection_dim"],
            patch=config["patch_size"],
            channels_in=channels,
            channels_out=config.get("out_channels") or channels,
        )

    def image_tokens(self, width_px: int, height_px: int) -> int:
        side_px = LATENT_PX * self.patch
        return (width_px // side_px) * (height_px // side_px)

    def call_flop(
        self,
        width_px: int,
        height_px: int,
        text_tokens: int,
        batch: int = 1,
        skipped: Collection[int] = (),
    ) -> int:
        """FLOP of one call; `batch` is 2 with guidance. `skipped` blocks are left out."""
        image = self.image_tokens(width_px, height_px)
        blocks = (i for i in range(self.layers) if i not in skipped)
        inner = sum(self._block_flop(i, image, text_tokens) for i in blocks)
        return batch * (inner + self._ends_flop(image, text_tokens))

    def _block_flop(self, index: int, image: int, text: int) -> int:
        """Weights a token meets, in d²: q, k, v, out 4 and feed-forward 8; adaLN 6 once."""
        d, last, dual = self.width, index == self.layers - 1, index in self.dual
        linear = (16 if dual else 12) * image + (3 if last else 12) * text
        modulation = (9 if dual else 6) + (2 if last else 6)
        attention = (image + text) ** 2 + (image**2 if dual else 0)
        return 2 * (linear + modulation) * d * d + 4 * attention * d

    def _ends_flop(self, image: int, text: int) -> int:
        """What comes before the blocks and after them."""
        d, cells = self.width, self.patch**2
        patches = image * cells * (self.channels_in + self.channels_out) * d
        time_and_pooled = (TIME_FEATURES + self.pooled_width) * d + 2 * d * d
        return 2 * (patches + text * self.text_width * d + time_and_pooled + 2 * d * d)


@dataclass(slots=True, frozen=True)
class SkipLayers:
    """Skip-layer guidance: one more call, without `layers`, in this part of the schedule."""

    layers: frozenset[int]
    start: float
    stop: float

    def calls(self, steps: int) -> int:
        """Source: StableDiffusion3Pipeline.__call__ of diffusers."""
        return sum(steps * self.start < i < steps * self.stop for i in range(steps))


def denoise_flop(
    mmdit: Mmdit, spec: RenderSpec, text_tokens: int, skip: SkipLayers | None = None
) -> int | None:
    """FLOP of all steps of one render; None for a preset that leaves some out, which is not counted."""
    if spec.preset != "exact":
        return None
    size, steps = (spec.width, spec.height, text_tokens), spec.steps_to_run
    guided = spec.guidance_scale > 1
    flop = steps * mmdit.call_flop(*size, batch=2 if guided else 1)
    if skip and guided and spec.skip_layer_guidance:
        flop += skip.calls(steps) * mmdit.call_flop(*size, skipped=skip.layers)
    return flop
