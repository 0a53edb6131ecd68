"""The real pipeline on a tiny model: the same pixels as stock diffusers, and independence."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from shared.errors import Canceled, ModelError, RenderFailed
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading.devices import pick_device
from worker.loading.load import load
from worker.loading.locate import locate
from worker.loading.steps import STEPS

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16
)


def order(seed=7, **changes):
    fields = {"width": 64, "height": 64, "steps": 3, "guidance_scale": 4.5, "shift": 3.0}
    prompts = {"prompt": "a red fox in the snow", "negative_prompt": "blurry"}
    return RenderSpec(
        model="m", model_digest=ENTRY.digest, seed=seed, **{**prompts, **fields, **changes}
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def engine(settings):
    return load(ENTRY, settings, "cpu")


@pytest.fixture(scope="module")
def stock(settings):
    """Diffusers as its manual has it."""
    pipe = StableDiffusion3Pipeline.from_pretrained(locate(ENTRY, settings), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def on_step(done, total):
    pass


def pixels(engine, spec):
    picture = engine.render(spec, on_step)
    return np.frombuffer(picture.rgb, np.uint8).reshape(spec.height, spec.width, 3).astype(int)


def stock_pixels(pipe, spec):
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, shift=spec.shift
    )
    image = pipe(
        spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        max_sequence_length=32,
        generator=torch.Generator("cpu").manual_seed(spec.seed),
    ).images[0]
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 0.0},
        {"width": 80, "height": 48, "seed": 2**32 - 1},
        {"shift": 1.0, "steps": 1},
        {"prompt": "狐, 4k", "negative_prompt": ""},
    ],
)
def test_the_image_is_the_stock_pipelines(engine, stock, changes):
    spec = order(**changes)

    assert abs(pixels(engine, spec) - stock_pixels(stock, spec)).max() <= 1


def test_the_same_order_gives_the_same_bytes(engine):
    assert engine.render(order(), on_step).rgb == engine.render(order(), on_step).rgb


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"prompt": "a blue boat"},
        {"negative_prompt": "sharp"},
        {"guidance_scale": 7.0},
        {"shift": 1.0},
        {"steps": 4},
    ],
)
def test_whatever_an_order_changes_changes_the_image(engine, change):
    assert abs(pixels(engine, order()) - pixels(engine, order(**change))).mean() > 0.1


def test_without_guidance_the_negative_prompt_is_not_read(engine):
    first = engine.render(order(guidance_scale=1.0, negative_prompt="blurry"), on_step)
    second = engine.render(order(guidance_scale=1.0, negative_prompt="sharp"), on_step)

    assert first.rgb == second.rgb


def test_an_image_does_not_depend_on_those_before_it(engine):
    alone = engine.render(order(), on_step).rgb

    for other in (order(seed=1, width=96, shift=6.0), order(steps=1, guidance_scale=0.0)):
        engine.render(other, on_step)

    assert engine.render(order(), on_step).rgb == alone


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 144), (176, 32)])
def test_any_multiple_of_16_is_a_size(engine, width, height):
    picture = engine.render(order(width=width, height=height, steps=1), on_step)

    assert (picture.width, picture.height) == (width, height)
    assert len(picture.rgb) == width * height * 3


def test_every_step_is_told(engine):
    told = []

    engine.render(order(steps=4), lambda done, total: told.append((done, total)))

    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_cancel_stops_at_that_step_and_leaves_no_trace(engine, at):
    before = engine.render(order(), on_step).rgb
    told = []

    def cancel(done, total):
        told.append(done)
        if done == at:
            raise Canceled

    with pytest.raises(Canceled):
        engine.render(order(seed=3), cancel)

    assert told == list(range(1, at + 1))
    assert engine.render(order(), on_step).rgb == before


def test_a_picture_says_where_its_time_went_and_what_rounded_it(engine):
    picture = engine.render(order(), on_step)

    assert set(picture.timings_s) == {"text", "denoise", "decode"}
    assert all(seconds >= 0 for seconds in picture.timings_s.values())
    assert picture.profile["dtype"] == "fp32"
    assert picture.profile["torch"] == torch.__version__
    assert picture.profile["threads"] == "1"


def test_a_known_prompt_is_not_encoded_again(engine):
    engine.render(order(prompt="a lamp"), on_step)
    calls = []
    hook = engine._pipe.text_encoder_3.register_forward_hook(lambda *_: calls.append(1))

    engine.render(order(prompt="a lamp", seed=9), on_step)
    engine.render(order(prompt="blurry", negative_prompt="a lamp"), on_step)  # roles changed
    hook.remove()

    assert calls == []


@pytest.mark.parametrize(
    "unfit",
    [
        {"width": 65},
        {"skip_layer_guidance": 2.8},
        {"init_image_sha256": "0", "strength": 0.5},
    ],
)
def test_what_it_cannot_draw_fails_and_the_next_order_is_well(engine, unfit):
    before = engine.render(order(), on_step).rgb

    with pytest.raises(RenderFailed) as failure:
        engine.render(order(**unfit), on_step)

    assert (failure.value.code, failure.value.retryable) == ("render_error", False)
    assert engine.render(order(), on_step).rgb == before


def test_numbers_that_are_no_picture_are_a_failure_and_never_a_black_image(engine):
    with pytest.raises(RenderFailed, match="not finite"):
        engine.render(order(guidance_scale=1e38), on_step)


def test_running_out_of_memory_may_be_tried_again(engine):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = engine._pipe.transformer.register_forward_pre_hook(out_of_memory)
    with pytest.raises(RenderFailed) as failure:
        engine.render(order(), on_step)
    hook.remove()

    assert (failure.value.code, failure.value.retryable) == ("out_of_memory", True)
    assert "64 x 64" in str(failure.value)


def test_loading_tells_its_steps_in_order(settings):
    told = []

    load(ENTRY, settings, "cpu", lambda name, state: told.append((name, state)))

    states = dict(told)
    assert tuple(dict.fromkeys(name for name, _ in told)) == STEPS
    assert {n for n, s in states.items() if s == "skipped"} == {"quantize", "compile"}
    assert {s for n, s in told if n == "warmup"} == {"running", "done"}


def test_without_t5_another_image_is_drawn(settings, engine):
    entry = ENTRY.model_copy(update={"t5": "off"})

    lean = load(entry, settings, "cpu")

    assert lean._pipe.text_encoder_3 is None
    assert abs(pixels(lean, order()) - pixels(engine, order())).mean() > 0.1


def test_bf16_is_really_bf16_and_close_to_fp32(settings, engine):
    half = load(ENTRY.model_copy(update={"precision": "bf16"}), settings, "cpu")

    parts = (half._pipe.transformer, half._pipe.vae, half._pipe.text_encoder_3)
    assert {part.dtype for part in parts} == {torch.bfloat16}
    assert 0 < abs(pixels(half, order()) - pixels(engine, order())).mean() < 10


def test_two_models_may_be_loaded_at_once(settings, engine):
    loaded = []
    threads = [
        threading.Thread(target=lambda: loaded.append(load(ENTRY, settings, "cpu")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [one.render(order(), on_step).rgb for one in loaded] == [
        engine.render(order(), on_step).rgb
    ] * 2


def test_moving_parts_to_the_device_and_back_changes_no_image(settings, engine):
    moving = load(ENTRY, settings, "cpu")
    moving._pipe.enable_model_cpu_offload(device="cpu")  # the hooks of a GPU, without one

    for spec in (order(), order(guidance_scale=0.0), order()):
        assert moving.render(spec, on_step).rgb == engine.render(spec, on_step).rgb


@pytest.mark.parametrize("placement", ["model-offload", "sequential-offload"])
def test_offload_without_a_gpu_is_refused_before_anything_is_fetched(settings, placement):
    told = []
    entry = ENTRY.model_copy(update={"placement": placement, "source": "hf:nobody/nothing"})

    with pytest.raises(ModelError, match="this worker has no GPU"):
        load(entry, settings, "cpu", lambda *step: told.append(step))

    assert told == []


def test_damaged_weights_are_one_clear_fault(tmp_path):
    folder = locate(ENTRY, Settings(model_cache_dir=tmp_path))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelError, match=r"vae/diffusion_pytorch_model\.safetensors is cut short"):
        load(ENTRY, Settings(model_cache_dir=tmp_path), "cpu")


def test_what_only_loading_can_tell_is_one_clear_fault_too(tmp_path):
    folder = locate(ENTRY, Settings(model_cache_dir=tmp_path))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("1000", '"many"'))

    with pytest.raises(ModelError, match=r"m cannot be loaded from .*: TypeError"):
        load(ENTRY, Settings(model_cache_dir=tmp_path), "cpu")


def test_weights_that_draw_one_flat_colour_do_not_pass_the_warm_up(tmp_path):
    settings = Settings(model_cache_dir=tmp_path)
    silence_decoder(locate(ENTRY, settings))

    with pytest.raises(ModelError, match="flat colour"):
        load(ENTRY, settings, "cpu")


def silence_decoder(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_out.weight"].zero_()
    weights["decoder.conv_out.bias"].zero_()
    save_file(weights, file, metadata={"format": "pt"})


def test_a_cpu_is_always_a_device():
    assert pick_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cpu:1", ""])
def test_a_device_that_means_nothing_is_refused(device):
    with pytest.raises(ModelError, match="auto, cpu, cuda or cuda:N"):
        pick_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")
def test_without_a_card_auto_is_the_cpu_and_cuda_is_refused():
    assert pick_device("auto") == "cpu"
    with pytest.raises(ModelError, match="no device cuda:1: torch sees 0 CUDA cards"):
        pick_device("cuda:1")
