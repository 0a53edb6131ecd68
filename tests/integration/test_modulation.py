"""The tables of time and prompt: the same numbers as without them, with whatever is active."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig

from shared.errors import Canceled
from tests.engines import apart, drawn, entry_of, loaded, on_step, order
from worker.engines.denoise import Task, Words
from worker.engines.modulation import TABLED_STEPS, norms_of


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(entry_of("normal"), tmp_path_factory.mktemp("cache"))


@contextmanager
def plain(engine: Any) -> Iterator[None]:
    """The pipeline as diffusers has it."""
    tables, engine._denoiser._modulation = engine._denoiser._modulation, None
    try:
        yield
    finally:
        engine._denoiser._modulation = tables


def latents(engine: Any, **changes: Any) -> torch.Tensor:
    spec = order(**changes)
    guided = spec.guidance_scale > 1
    with torch.inference_mode():
        negative = engine._prompts.embed("blurry") if guided else (None, None)
        words = Words(engine._prompts.embed(spec.prompt), negative)
        made: torch.Tensor = engine._denoiser.latents(Task(spec, on_step), None, words)
    return made


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance_scale": 0.0}, {"steps": TABLED_STEPS + 3, "width": 32, "height": 32}],
)
def test_the_latents_are_those_of_every_step_computed_anew(
    engine: Any, changes: dict[str, Any]
) -> None:
    tabled = latents(engine, **changes)
    with plain(engine):
        anew = latents(engine, **changes)

    assert (tabled - anew).abs().max() < 2e-5 * anew.abs().max()


def test_each_layer_is_read_once_for_all_steps(engine: Any) -> None:
    calls: list[int] = []
    hooks = [
        norm.linear.register_forward_hook(lambda *_: calls.append(1))
        for norm in norms_of(engine._pipe.transformer)
    ]

    drawn(engine, order(steps=9))
    for hook in hooks:
        hook.remove()

    assert len(calls) == len(hooks)


def test_a_lora_on_these_very_layers_is_in_the_tables(engine: Any) -> None:
    transformer = engine._pipe.transformer
    before = latents(engine)
    config = LoraConfig(r=4, target_modules=r".*norm1(_context)?\.linear|.*linear_1")
    transformer.add_adapter(config, "one")
    try:
        with torch.no_grad():
            for name, weight in transformer.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(weight, std=0.1)
        tabled = latents(engine)
        with plain(engine):
            anew = latents(engine)
    finally:
        transformer.delete_adapters("one")
        transformer.unload_lora()

    assert (tabled - before).abs().max() > 0.01
    assert (tabled - anew).abs().max() < 2e-5 * anew.abs().max()
    assert torch.equal(latents(engine), before)


def test_skip_layer_guidances_extra_pass_has_the_rows_of_the_prompt(engine: Any) -> None:
    skipping = {"skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.9}
    call = type(engine._pipe).__call__

    class Skipping(type(engine._pipe)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return call(self, *args, **kwargs, **skipping)

    before = latents(engine)
    stock = type(engine._pipe)
    engine._pipe.__class__ = Skipping
    try:
        tabled = latents(engine)
        with plain(engine):
            anew = latents(engine)
    finally:
        engine._pipe.__class__ = stock

    assert (anew - before).abs().max() > 0.01
    assert (tabled - anew).abs().max() < 2e-5 * anew.abs().max()


def test_after_a_render_however_it_ended_the_transformer_is_as_it_was(engine: Any) -> None:
    transformer = engine._pipe.transformer
    before = [(name, id(part)) for name, part in transformer.named_modules()]
    whole = drawn(engine, order())

    def stop(done: int, total: int) -> None:
        raise Canceled

    with pytest.raises(Canceled):
        engine.render(order(seed=8), stop)

    assert [(name, id(part)) for name, part in transformer.named_modules()] == before
    assert drawn(engine, order()) == whole


def test_pixels_do_not_move(engine: Any) -> None:
    tabled = drawn(engine, order(steps=8))
    with plain(engine):
        assert apart(tabled, drawn(engine, order(steps=8))) <= 1
