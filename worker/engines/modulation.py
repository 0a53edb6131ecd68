"""What time and prompt do to each block, computed once for a whole render instead of at each step.

Every block scales and shifts its tokens by a few rows that depend on the timestep and the pooled
prompt alone. Their weights are a third of SD3.5's, so at each step a GPU reads gigabytes of them to
transform one or two rows. Here they are read once for many steps. Larger products round otherwise:
the rows differ by about 1e-6 of their size in float32, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

TABLED_STEPS = 32  # 140 MB with Large and guidance, in bfloat16


class Row(nn.Module):
    """Stands where a norm's linear layer stood, and answers with the row of the present step."""

    row: Tensor | None = None  # (B, width times 2, 6 or 9); None between renders

    def forward(self, _conditioning: Tensor) -> Tensor | None:
        return self.row


class Modulation:
    """The tables of one transformer; `step` is the step that runs, from 0."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._norms = norms_of(pipe.transformer)
        # Kept from render to render: compiled code knows these very modules.
        self._rows = [Row() for _ in self._norms]
        self.step = 0

    @contextmanager
    def tabled(self) -> Iterator[None]:
        """Inside, the transformer reads tables; whatever adapters are active then are in them."""
        transformer, linears = self._pipe.transformer, [norm.linear for norm in self._norms]
        embedder, self.step = transformer.time_text_embed, 0
        try:
            transformer.time_text_embed = _Clock(self, embedder, linears)
            for norm, row in zip(self._norms, self._rows, strict=True):
                norm.linear = row
            yield
        finally:
            transformer.time_text_embed = embedder
            for norm, linear in zip(self._norms, linears, strict=True):
                norm.linear = linear
            self.turn([None] * len(linears))  # the tables' memory goes

    def timesteps(self, first: int) -> Tensor:
        timesteps: Tensor = self._pipe.scheduler.timesteps[first : first + TABLED_STEPS]
        return timesteps

    def turn(self, rows: Sequence[Tensor | None]) -> None:
        for holder, row in zip(self._rows, rows, strict=True):
            holder.row = row


class _Clock(nn.Module):
    """Stands where the embedder of time and prompt stood: the first part that a forward calls."""

    def __init__(self, modulation: Modulation, embedder: nn.Module, linears: list[nn.Module]):
        super().__init__()
        self._modulation = modulation
        self._embedder = embedder
        self._linears = nn.ModuleList(linears)
        self._first: int | None = None  # step of the tables' first row

    def forward(self, timestep: Tensor, pooled: Tensor) -> Tensor:
        """(B, width). A smaller batch than the first has its last rows: those of the prompt."""
        step = self._modulation.step
        if self._first != step - step % TABLED_STEPS:
            self._first = step - step % TABLED_STEPS
            self._tabulate(self._modulation.timesteps(self._first), pooled)
        at, batch = step - self._first, len(timestep)
        # Detached, or compiled code would look at the whole table's size and compile for each.
        self._modulation.turn([table[at, -batch:].detach() for table in self._tables])
        conditioning: Tensor = self._conditioning[at, -batch:].detach()
        return conditioning

    def _tabulate(self, timesteps: Tensor, pooled: Tensor) -> None:
        """Tables (steps, B, ...) of a linear layer each."""
        shape = (len(timesteps), len(pooled))
        times = timesteps.repeat_interleave(shape[1])
        made = self._embedder(times, pooled.repeat(shape[0], 1))
        active = nn.functional.silu(made)
        self._conditioning = made.unflatten(0, shape)
        self._tables = [linear(active).unflatten(0, shape) for linear in self._linears]


def norms_of(transformer: Any) -> list[Any]:
    """Every norm that time and prompt modulate."""
    blocks = transformer.transformer_blocks
    inner = [norm for block in blocks for norm in (block.norm1, block.norm1_context)]
    return [*inner, transformer.norm_out]
