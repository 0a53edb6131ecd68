"""What a preset leaves out of a render: whole steps of most blocks, and late guidance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from shared.presets import Recipe


@contextmanager
def cached_steps(transformer: Any, recipe: Recipe | None) -> Iterator[None]:
    """Inside, the transformer's blocks are a `StepCache`, which dies with the render.

    Its memory never outlives it: a render that was stopped half way leaves nothing to the next.
    """
    blocks = transformer.transformer_blocks
    if recipe is None or len(blocks) < 2:
        yield
        return
    # Compiled as a whole, a transformer would have no room for a choice: it runs uncompiled.
    whole = transformer._compiled_call_impl is not None
    with torch.compiler.set_stance("force_eager") if whole else nullcontext():
        try:
            transformer.transformer_blocks = nn.ModuleList([StepCache(blocks, recipe)])
            yield
        finally:
            transformer.transformer_blocks = blocks


class StepCache(nn.Module):
    """All blocks as one: the first always runs, the others where it did something new.

    Each decision makes the host wait for the first block.
    Source: first-block cache of ParaAttention, as hooks of diffusers cannot be used with SD3, whose
    last block returns no context.
    """

    def __init__(self, blocks: nn.ModuleList, recipe: Recipe) -> None:
        super().__init__()
        self.blocks = blocks
        self._recipe = recipe
        self._change: Tensor | None = None  # what the first block did at the last whole step
        self._rest: Tensor | None = None  # and the other blocks after it
        self._reused = 0

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **others: Any
    ) -> tuple[Tensor, Tensor]:
        context, first = self.blocks[0](
            hidden_states=hidden_states, encoder_hidden_states=encoder_hidden_states, **others
        )
        change = first - hidden_states
        if self._rest is not None and self._is_old(change):
            self._reused += 1
            return context, first + self._rest
        hidden = first
        for block in self.blocks[1:]:
            context, hidden = block(hidden_states=hidden, encoder_hidden_states=context, **others)
        self._change, self._rest, self._reused = change, hidden - first, 0
        return context, hidden

    def _is_old(self, change: Tensor) -> bool:
        if self._change is None or self._change.shape != change.shape:
            return False  # guidance ended: another batch
        if self._reused >= self._recipe.most_reused:
            return False
        moved = (change - self._change).abs().mean() / self._change.abs().mean()
        return bool(moved < self._recipe.threshold)


def end_guidance(pipe: Any, tensors: dict[str, Any]) -> None:
    """The steps that follow are without: half the work. `tensors` as a callback of a step has them."""
    pipe._guidance_scale = 1.0
    for name in ("prompt_embeds", "pooled_prompt_embeds"):
        tensors[name] = tensors[name].chunk(2)[1]  # (negative, prompt)
