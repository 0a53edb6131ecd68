"""Image to image, inpainting and previews on the real tiny pipeline, beside stock diffusers."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
    StableDiffusion3Pipeline,
)
from PIL import Image

from shared.errors import Canceled, RenderFailed
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.port import Inputs, Previews
from worker.engines.previews import fitted
from worker.loading.load import load
from worker.loading.locate import locate

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16
)
WIDTH, HEIGHT = 96, 64


def order(seed: int = 7, **changes: Any) -> RenderSpec:
    fields = {
        "width": WIDTH, "height": HEIGHT, "steps": 10, "guidance_scale": 4.5, "shift": 3.0,
        "prompt": "a red fox", "negative_prompt": "blurry", "seed": seed,
        "init_image_sha256": "a1" * 32, "strength": 0.5,
    }  # fmt: skip
    digest = ENTRY.digest
    return RenderSpec.model_validate({"model": "m", "model_digest": digest, **fields, **changes})


def photo() -> np.ndarray:
    """(HEIGHT, WIDTH, 3), smooth and coloured."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, (x + y) % 256], -1).astype(np.uint8)


def mask(soft: bool = False) -> np.ndarray:
    """(HEIGHT, WIDTH): the right part is to be repainted; the border is no multiple of 8."""
    levels = np.zeros((HEIGHT, WIDTH), np.uint8)
    levels[:, 51:] = 255
    if soft:
        levels[:, 43:51] = np.linspace(0, 255, 8).astype(np.uint8)
    return levels


def given(masked: np.ndarray | None = None) -> Callable[[], Inputs]:
    inputs = Inputs(photo().tobytes(), None if masked is None else masked.tobytes())
    return lambda: inputs


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Any:
    return load(ENTRY, settings, "cpu")


@pytest.fixture(scope="module")
def stock(settings: Settings) -> Any:
    return StableDiffusion3Pipeline.from_pretrained(locate(ENTRY, settings), dtype=torch.float32)


def on_step(done: int, total: int) -> None: ...


def drawn(engine: Any, spec: RenderSpec, inputs: Any = None, **more: Any) -> np.ndarray:
    picture = engine.render(spec, on_step, inputs, **more)
    assert (picture.width, picture.height) == (spec.width, spec.height)
    return np.frombuffer(picture.rgb, np.uint8).reshape(HEIGHT, WIDTH, 3).astype(int)


def latents_of(stock: Any) -> torch.Tensor:
    """The photo as latents, by the mean of the encoder: given so, stock pipelines sample nothing."""
    pixels = torch.from_numpy(photo()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        mean = stock.vae.encode(pixels).latent_dist.mode()
    return (mean - stock.vae.config.shift_factor) * stock.vae.config.scaling_factor


def stock_latents(stock: Any, kind: Any, spec: RenderSpec, **more: Any) -> torch.Tensor:
    """What stock diffusers denoises to."""
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        stock.scheduler.config, shift=spec.shift
    )
    pipe = kind(**{**stock.components, "scheduler": scheduler})
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        spec.prompt, negative_prompt=spec.negative_prompt, image=latents_of(stock),
        strength=spec.strength, width=spec.width, height=spec.height,
        num_inference_steps=spec.steps, guidance_scale=spec.guidance_scale,
        max_sequence_length=32, generator=torch.Generator("cpu").manual_seed(spec.seed),
        output_type="latent", **more,
    ).images  # fmt: skip


def decoded(stock: Any, latents: torch.Tensor) -> np.ndarray:
    config = stock.vae.config
    with torch.inference_mode():
        image = stock.vae.decode(latents / config.scaling_factor + config.shift_factor)[0]
    levels = (image[0].permute(1, 2, 0) * 127.5 + 127.5).round().clamp(0, 255)
    return levels.numpy().astype(int)


# ---------------------------------------------------------------------------------- image to image


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strength": 0.3},
        {"strength": 1.0},
        {"strength": 0.95, "guidance_scale": 0.0},
        {"strength": 0.61, "shift": 1.0, "steps": 7},
        {"strength": 0.01},
    ],
)
def test_image_to_image_is_the_stock_pipelines(
    engine: Any, stock: Any, changes: dict[str, Any]
) -> None:
    spec = order(**changes)

    theirs = decoded(stock, stock_latents(stock, StableDiffusion3Img2ImgPipeline, spec))

    assert abs(drawn(engine, spec, given()) - theirs).max() <= 1


def test_at_full_strength_the_picture_is_the_seeds_own(engine: Any) -> None:
    alone = order(init_image_sha256=None, strength=None)

    assert (drawn(engine, order(strength=1.0), given()) == drawn(engine, alone)).all()


def test_the_less_strength_the_closer_to_the_input(engine: Any, stock: Any) -> None:
    start = decoded(stock, latents_of(stock))

    far = [abs(drawn(engine, order(strength=s), given()) - start).mean() for s in (0.1, 0.5, 1.0)]

    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize(("strength", "steps"), [(0.3, 3), (1.0, 10), (0.01, 1)])
def test_the_steps_that_are_run_are_told(engine: Any, strength: float, steps: int) -> None:
    told: list[tuple[int, int]] = []

    engine.render(order(strength=strength), lambda *step: told.append(step), given())

    assert told == [(done, steps) for done in range(1, steps + 1)]


@pytest.mark.parametrize("masked", [None, mask()])
def test_the_same_order_gives_the_same_bytes(engine: Any, masked: np.ndarray | None) -> None:
    spec = order(mask_image_sha256=None if masked is None else "b2" * 32)
    first = engine.render(spec, on_step, given(masked)).rgb

    engine.render(order(seed=8, steps=3), on_step, given())
    engine.render(order(init_image_sha256=None, strength=None), on_step)

    assert engine.render(spec, on_step, given(masked)).rgb == first
    other = order(seed=8, mask_image_sha256=spec.mask_image_sha256)
    assert engine.render(other, on_step, given(masked)).rgb != first


# ---------------------------------------------------------------------------------------- inpainting


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_inpainting_denoises_as_the_stock_pipeline(
    engine: Any, stock: Any, strength: float
) -> None:
    spec = order(strength=strength, mask_image_sha256="b2" * 32)
    cells = np.zeros((HEIGHT, WIDTH), np.uint8)
    cells[:, 48:] = 255  # whole cells, as the engine makes of a mask from 51 on

    theirs = stock_latents(
        stock, StableDiffusion3InpaintPipeline, spec, mask_image=Image.fromarray(cells),
        masked_image_latents=torch.zeros(1, 16, HEIGHT // 8, WIDTH // 8),
    )  # fmt: skip

    ours = drawn(engine, spec, given(mask()))
    inside = mask() == 255
    # Decoded with its shift, which stock inpainting forgets.
    assert abs(ours - decoded(stock, theirs))[inside].max() <= 1


def test_what_the_mask_keeps_is_kept_to_the_last_bit(engine: Any) -> None:
    ours = drawn(engine, order(mask_image_sha256="b2" * 32, strength=1.0), given(mask()))

    outside = mask() == 0
    assert (ours[outside] == photo()[outside]).all()
    assert abs(ours - photo())[~outside].mean() > 5


def test_a_soft_edge_mixes_both(engine: Any) -> None:
    spec = order(mask_image_sha256="b2" * 32)
    soft = mask(soft=True)
    everything = np.full_like(soft, 255)
    assert everything.any()

    ours = drawn(engine, spec, given(soft))

    assert (ours[soft == 0] == photo()[soft == 0]).all()
    between = (soft > 0) & (soft < 255)
    hard = soft.copy()
    hard[between] = 255  # the same cells are repainted
    drawn_there = drawn(engine, spec, given(hard))
    share = soft[between][:, None].astype(int)
    mixed = (drawn_there[between] * share + photo()[between] * (255 - share) + 127) // 255
    assert (ours[between] == mixed).all()


# -------------------------------------------------------------------------------- trouble on the way


@pytest.mark.parametrize("masked", [None, mask()])
def test_a_cancel_leaves_no_trace(engine: Any, masked: np.ndarray | None) -> None:
    spec = order(mask_image_sha256=None if masked is None else "b2" * 32)
    before = engine.render(spec, on_step, given(masked)).rgb

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise Canceled

    with pytest.raises(Canceled):
        engine.render(order(seed=3), cancel, given(masked))

    assert engine.render(spec, on_step, given(masked)).rgb == before


def test_an_input_that_cannot_be_had_fails_the_render_and_nothing_else(engine: Any) -> None:
    def missing() -> Inputs:
        raise RenderFailed("input_missing", "gone")

    before = engine.render(order(), on_step, given()).rgb
    with pytest.raises(RenderFailed, match="gone"):
        engine.render(order(), on_step, missing)

    assert engine.render(order(), on_step, given()).rgb == before


def test_an_order_that_names_an_input_is_never_drawn_without_it(engine: Any) -> None:
    with pytest.raises(RenderFailed):
        engine.render(order(), on_step)
    with pytest.raises(RenderFailed):
        engine.render(order(init_image_sha256=None, strength=None), on_step, given())


def test_when_memory_is_short_at_the_first_try_the_inputs_are_there_at_the_second(
    engine: Any, settings: Settings
) -> None:
    short = load(ENTRY, settings, "cpu")
    failing = [True]

    def out_of_memory(*_: object) -> None:
        if failing.pop() if failing else False:
            raise torch.OutOfMemoryError("CUDA out of memory")

    short._pipe.transformer.register_forward_pre_hook(out_of_memory)

    assert (
        short.render(order(), on_step, given()).rgb == engine.render(order(), on_step, given()).rgb
    )


def test_in_bf16_it_draws_about_the_same(engine: Any, settings: Settings) -> None:
    half = load(ENTRY.model_copy(update={"precision": "bf16"}), settings, "cpu")
    spec = order(mask_image_sha256="b2" * 32)

    assert (
        0 < abs(drawn(half, spec, given(mask())) - drawn(engine, spec, given(mask()))).mean() < 10
    )


# ------------------------------------------------------------------------------------------ previews


def shown(engine: Any, spec: RenderSpec, count: int, inputs: Any = None) -> list[Any]:
    seen: list[Any] = []
    steps: list[int] = []

    def show(number: int, rgb: bytes, width: int, height: int) -> None:
        pixels = np.frombuffer(rgb, np.uint8).reshape(height, width, 3)
        seen.append((number, len(steps), pixels))

    def step(done: int, total: int) -> None:
        steps.append(done)

    engine.render(spec, step, inputs, Previews(count, show))
    return seen


@pytest.mark.parametrize(
    ("steps", "count", "at"),
    [(10, 1, [5]), (10, 3, [2, 5, 8]), (10, 0, []), (2, 3, [1]), (1, 3, []), (4, 3, [1, 2, 3])],
)
def test_previews_come_evenly_and_before_the_picture(
    engine: Any, steps: int, count: int, at: list[int]
) -> None:
    seen = shown(engine, order(init_image_sha256=None, strength=None, steps=steps), count)

    assert [number for number, _, _ in seen] == list(range(len(at)))
    assert [step for _, step, _ in seen] == at
    assert all(pixels.shape == (HEIGHT // 8, WIDTH // 8, 3) for _, _, pixels in seen)


def test_previews_of_image_to_image_are_spread_over_the_steps_that_run(engine: Any) -> None:
    assert [at for _, at, _ in shown(engine, order(strength=0.4), 3, given())] == [1, 2, 3]


class LinearVae:
    """Encodes and decodes by matrices, with 16 channels of which some mean nothing."""

    dtype = torch.float32
    config = SimpleNamespace(shift_factor=0.0609, scaling_factor=1.5305)

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.decoder = torch.randn((16, 3), generator=generator) * 0.2

    def encode(self, pixels: torch.Tensor) -> Any:
        small = torch.nn.functional.avg_pool2d(pixels, 8)
        latents = torch.einsum("bchw,cd->bdhw", small, torch.linalg.pinv(self.decoder))
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        small = torch.einsum("bchw,cd->bdhw", latents, self.decoder)
        return (torch.nn.functional.interpolate(small, scale_factor=8),)


def test_where_the_decoder_is_linear_a_preview_has_its_colours() -> None:
    vae = LinearVae()
    glance = fitted(vae, torch.device("cpu"))
    pixels = torch.from_numpy(photo()).permute(2, 0, 1)[None] / 127.5 - 1
    latents = (vae.encode(pixels).latent_dist.mode() - 0.0609) * 1.5305

    seen = glance.seen(latents).numpy().astype(int)

    wanted = np.asarray(Image.fromarray(photo()).reduce(8)).astype(int)
    assert abs(seen - wanted).max() < 12


def test_the_later_a_preview_the_more_it_is_the_picture(engine: Any) -> None:
    spec = order(init_image_sha256=None, strength=None, steps=20)
    latents: list[torch.Tensor] = []
    decode = engine._decode
    engine._decode = lambda made: latents.append(made) or decode(made)
    previews = [pixels.astype(int) for _, _, pixels in shown(engine, spec, 3)]
    del engine._decode

    picture = engine._denoiser.look.seen(latents[0]).numpy().astype(int)

    far = [abs(preview - picture).mean() for preview in previews]
    assert far[0] > far[1] > far[2]


def test_a_preview_of_inpainting_shows_what_is_kept(engine: Any, stock: Any) -> None:
    spec = order(strength=1.0, mask_image_sha256="b2" * 32)

    [(_, _, pixels)] = shown(engine, spec, 1, given(mask()))

    kept = engine._denoiser.look.seen(latents_of(stock)).numpy()
    assert (pixels[:, :6] == kept[:, :6]).all()
    assert (pixels[:, 6:] != kept[:, 6:]).any()


def test_previews_change_nothing(engine: Any) -> None:
    spec = order(mask_image_sha256="b2" * 32)
    without = engine.render(spec, on_step, given(mask())).rgb

    previews = Previews(3, lambda *_: None)

    assert engine.render(spec, on_step, given(mask()), previews).rgb == without


def test_a_preview_becomes_a_small_jpeg() -> None:
    from worker.previews import jpeg

    with Image.open(io.BytesIO(jpeg(bytes(180 * 90 * 3), 180, 90))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (512, 256))
    with Image.open(io.BytesIO(jpeg(bytes(4 * 8 * 3), 4, 8))) as picture:
        assert picture.size == (16, 32)


def test_where_weights_come_and_go_the_picture_is_the_same(engine: Any, settings: Settings) -> None:
    spec = order(mask_image_sha256="b2" * 32)
    moved = load(ENTRY, settings, "cpu")
    moved._pipe.enable_model_cpu_offload(device="cpu")

    moved.warm_up()
    seen: list[int] = []
    previews = Previews(2, lambda number, *_: seen.append(number))

    picture = moved.render(spec, on_step, given(mask()), previews)
    assert picture.rgb == engine.render(spec, on_step, given(mask())).rgb
    assert seen == [0, 1]
