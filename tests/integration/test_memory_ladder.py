"""Out of device memory, on a real tiny pipeline: rung by rung, and the pixels that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from shared.errors import Canceled, DeviceFault, RenderFailed
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.engines.faults import is_device_fault, is_out_of_memory
from worker.engines.ladder import Ladder, Rung, rungs_of
from worker.loading.load import load

ENTRY = ModelEntry(
    id="m", source="tiny:size=small", precision="fp32", max_sequence_length=32, min_side_px=16
)
CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
Make = Callable[..., DiffusersSD3]


def order(seed: int = 7, **changes: Any) -> RenderSpec:
    fields = {"width": 64, "height": 64, "steps": 2, "guidance_scale": 4.5, "shift": 3.0}
    prompts = {"prompt": "a red fox in the snow", "negative_prompt": "blurry"}
    return RenderSpec.model_validate(
        {"model": "m", "model_digest": ENTRY.digest, "seed": seed, **prompts, **fields, **changes}
    )


def on_step(done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def make(settings: Settings) -> Make:
    """An engine on the CPU with the rungs of a card: their hooks work there too."""

    def engine(*rungs: Rung) -> DiffusersSD3:
        pipe = load(ENTRY, settings, "cpu")._pipe  # type: ignore[attr-defined]
        return DiffusersSD3(pipe, ENTRY, "cpu", {"device": "here"}, Ladder(pipe, CPU, rungs))

    return engine


@contextmanager
def failing(part: torch.nn.Module, times: int, error: Callable[[], Exception]) -> Iterator[None]:
    left = [times]

    def fail(*_: object) -> None:
        if left[0]:
            left[0] -= 1
            raise error()

    hook = part.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def no_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def short_of_memory(engine: DiffusersSD3, times: int) -> Any:
    return failing(engine._pipe.transformer, times, no_memory)


def taken(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.rung for r in caplog.records if getattr(r, "action", "") == "ladder"]


EXACT = (Rung.empty_caches, Rung.text_encoders_off, Rung.model_offload)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_each_rung_that_keeps_pixels_keeps_every_one_and_is_named(
    make: Make, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(*EXACT)
    before = engine.render(order(), on_step)

    with short_of_memory(engine, times):
        after = engine.render(order(), on_step)

    assert (after.rgb, after.exact) == (before.rgb, True)
    assert "memory" not in before.profile
    assert after.profile["memory"] == EXACT[times - 1].value
    assert taken(caplog) == [rung.value for rung in EXACT[:times]]


def test_the_rung_reached_stays_and_is_logged_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(*EXACT)
    well = engine.render(order(seed=9), on_step)
    with short_of_memory(engine, 2):
        engine.render(order(), on_step)

    later = engine.render(order(seed=9), on_step)

    assert (later.rgb, later.profile["memory"]) == (well.rgb, "text-encoders-off")
    assert len(taken(caplog)) == 2


def test_with_the_encoders_off_the_pipeline_is_where_its_transformer_is(make: Make) -> None:
    engine = make(*EXACT)
    with short_of_memory(engine, 2):
        engine.render(order(), on_step)

    assert engine._pipe.text_encoder_3 is None
    picture = engine.render(order(prompt="a prompt that was not encoded before"), on_step)
    assert picture.rgb != engine.render(order(), on_step).rgb
    assert engine._pipe.text_encoder_3 is None


def test_short_of_memory_in_the_encoders_or_the_decoder_is_met_alike(make: Make) -> None:
    engine = make(*EXACT)
    before = engine.render(order(), on_step).rgb
    engine._prompts.clear()

    for part in (engine._pipe.text_encoder_3, engine._pipe.vae.decoder):
        with failing(part, 1, no_memory):
            assert engine.render(order(), on_step).rgb == before


def test_after_the_last_rung_the_render_fails_and_may_be_tried_again(make: Make) -> None:
    engine = make(*EXACT)
    before = engine.render(order(), on_step).rgb

    with short_of_memory(engine, 4), pytest.raises(RenderFailed) as failure:
        engine.render(order(), on_step)

    assert (failure.value.code, failure.value.retryable) == ("out_of_memory", True)
    assert "64 x 64" in str(failure.value)
    assert engine.render(order(), on_step).rgb == before


def test_tiling_is_taken_for_one_render_and_marks_it_inexact(make: Make) -> None:
    engine = make(Rung.empty_caches, Rung.vae_tiling)
    wide = order(width=528, steps=1)
    before = engine.render(wide, on_step)

    with short_of_memory(engine, 2):
        tiled = engine.render(wide, on_step)
    after = engine.render(wide, on_step)

    assert (tiled.exact, tiled.profile["memory"]) == (False, "vae-tiling")
    assert tiled.rgb != before.rgb
    assert (after.rgb, after.exact, after.profile["memory"]) == (before.rgb, True, "empty-caches")


def test_tiling_that_has_nothing_to_divide_stays_exact(make: Make) -> None:
    engine = make(Rung.vae_tiling)
    before = engine.render(order(), on_step).rgb

    with short_of_memory(engine, 1):
        picture = engine.render(order(), on_step)

    assert (picture.rgb, picture.exact) == (before, True)


def test_a_cancel_on_a_lower_rung_is_a_cancel(make: Make) -> None:
    engine = make(*EXACT)

    def cancel(done: int, total: int) -> None:
        raise Canceled

    with short_of_memory(engine, 1), pytest.raises(Canceled):
        engine.render(order(), cancel)


def test_what_an_attempt_held_is_freed_before_the_next(make: Make) -> None:
    engine = make(*EXACT)
    seen: list[int] = []

    def count(*_: object) -> None:
        large = torch.zeros(2**20)
        seen.append(sum(_bytes(o) == _bytes(large) for o in _tensors()))
        if len(seen) < 3:
            raise no_memory()

    hook = engine._pipe.transformer.register_forward_pre_hook(count)
    engine.render(order(), on_step)
    hook.remove()

    assert seen[:3] == [1, 1, 1]


def _tensors() -> Iterator[torch.Tensor]:
    import gc

    # type(), not isinstance(): that would wake lazy modules among the objects
    return (o for o in gc.get_objects() if type(o) is torch.Tensor)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.nelement() * tensor.element_size()


@pytest.mark.parametrize(
    ("changes", "device", "rungs"),
    [
        ({}, CPU, ["empty-caches"]),
        ({"allow_tiling": True}, CPU, ["empty-caches", "vae-tiling"]),
        ({}, CARD, ["empty-caches", "text-encoders-off", "model-offload"]),
        ({"compile": "full"}, CARD, ["empty-caches", "text-encoders-off"]),
        ({"placement": "model-offload"}, CARD, ["empty-caches"]),
        (
            {"allow_tiling": True},
            CARD,
            ["empty-caches", "text-encoders-off", "model-offload", "vae-tiling"],
        ),
    ],
)
def test_an_entry_gets_the_rungs_that_help_it(
    changes: dict[str, Any], device: torch.device, rungs: list[str]
) -> None:
    entry = ENTRY.model_copy(update=changes)

    assert [rung.value for rung in rungs_of(entry, device)] == rungs
    assert entry.digest == ENTRY.digest


CUDA_ERROR = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"


def test_a_broken_device_is_told_from_a_render_that_fails(make: Make) -> None:
    engine = make(*EXACT)
    kinds = [RuntimeError, *filter(None, [getattr(torch, "AcceleratorError", None)])]

    for kind in kinds:
        sick = failing(engine._pipe.transformer, 1, lambda kind=kind: kind(CUDA_ERROR))
        with sick, pytest.raises(DeviceFault, match=r"illegal memory access was encountered$"):
            engine.render(order(), on_step)


@pytest.mark.parametrize(
    ("error", "no_memory", "fault"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), True, False),
        (RuntimeError("CUDA error: unspecified launch failure"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (ValueError("CUDA error: not torch's"), False, False),
    ],
)
def test_errors_are_sorted_by_what_helps_against_them(
    error: Exception, no_memory: bool, fault: bool
) -> None:
    assert (is_out_of_memory(error), is_device_fault(error)) == (no_memory, fault)
