"""Presets on the real pipeline: less work, the same picture again, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shared.errors import Canceled
from tests.engines import drawn, entry_of, loaded, order
from worker.engines.port import Inputs

STEPS = 12


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(entry_of("normal"), tmp_path_factory.mktemp("cache"))


def given() -> Inputs:
    return Inputs(bytes(range(256)) * (64 * 64 * 3 // 256))


def work(engine: Any, preset: str, **changes: Any) -> tuple[bytes, list[int]]:
    """The picture, and the batch of each pass through the last block."""
    batches: list[int] = []

    def count(_block: Any, _args: Any, given: dict[str, torch.Tensor]) -> None:
        batches.append(len(given["hidden_states"]))

    blocks = engine._pipe.transformer.transformer_blocks
    hook = blocks[-1].register_forward_pre_hook(count, with_kwargs=True)
    inputs = given if "init_image_sha256" in changes else None
    picture = drawn(engine, order(steps=STEPS, preset=preset, **changes), inputs)
    hook.remove()
    return picture, batches


@pytest.mark.parametrize(
    "start", [{}, {"init_image_sha256": "a1" * 32, "strength": 0.8}, {"guidance_scale": 0.0}]
)
def test_a_preset_costs_less_draws_another_picture_and_draws_it_again(
    engine: Any, start: dict[str, Any]
) -> None:
    exact, all_of_it = work(engine, "exact", **start)
    balanced, less = work(engine, "balanced", **start)
    draft, least = work(engine, "draft", **start)

    assert sum(all_of_it) > sum(less) > sum(least)
    assert len({exact, balanced, draft}) == 3
    assert work(engine, "balanced", **start) == (balanced, less)
    assert work(engine, "draft", **start) == (draft, least)


def test_exact_runs_every_block_at_every_step_with_guidance(engine: Any) -> None:
    assert work(engine, "exact")[1] == [2] * STEPS


def test_guidance_ends_where_the_recipe_says(engine: Any) -> None:
    batches: list[int] = []
    transformer = engine._pipe.transformer
    hook = transformer.register_forward_pre_hook(
        lambda _part, _args, given: batches.append(len(given["hidden_states"])), with_kwargs=True
    )
    drawn(engine, order(steps=STEPS, preset="draft"))
    hook.remove()

    assert batches == [2] * (STEPS // 2) + [1] * (STEPS // 2)


@pytest.mark.parametrize("at", [2, 7])
def test_a_canceled_draft_leaves_nothing_to_the_next_render(engine: Any, at: int) -> None:
    exact, draft = work(engine, "exact"), work(engine, "draft")

    def stop(done: int, total: int) -> None:
        if done == at:
            raise Canceled

    with pytest.raises(Canceled):
        engine.render(order(seed=99, steps=STEPS, preset="draft"), stop)

    assert work(engine, "exact") == exact
    with pytest.raises(Canceled):
        engine.render(order(seed=99, steps=STEPS, preset="draft"), stop)
    assert work(engine, "draft") == draft


def test_a_model_of_one_block_has_no_steps_to_reuse(tmp_path_factory: Any) -> None:
    small = loaded(entry_of("small"), tmp_path_factory.mktemp("cache"))

    assert work(small, "draft")[1] == [2] * (STEPS // 2) + [1] * (STEPS // 2)


def test_a_transformer_compiled_as_a_whole_runs_uncompiled_for_a_preset(engine: Any) -> None:
    draft, passes = work(engine, "draft")
    torch._dynamo.reset()
    transformer = engine._pipe.transformer
    transformer.compile(fullgraph=True, backend="eager")
    try:
        assert work(engine, "draft") == (draft, passes)
    finally:
        transformer._compiled_call_impl = None
        torch._dynamo.reset()
