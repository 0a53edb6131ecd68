"""torch.compile of the transformer and the decoder, as an entry asks; `off` is always the way out."""

from __future__ import annotations

from typing import Any

import torch

from shared.models import ModelEntry
from worker.loading.steps import Report, step

# With fullgraph torch raises at its limit of 8, and every size, batch and length counts.
MOST_SHAPES = 64
MOST_SHAPES_IN_ALL = 1024


def mark(
    pipe: Any, entry: ModelEntry, device: str, threads: int, report: Report, backend: str = ""
) -> None:
    """Only marks what to compile; the warm-up compiles it, in `threads` processes at most.

    `backend` is one of torch's in place of Inductor.
    """
    if entry.compile == "off":
        report("compile", "skipped")
        return
    with step("compile", report):
        _set_limits(threads)
        if entry.compile == "regional":
            _mark_blocks(pipe.transformer, {"backend": backend} if backend else {})
        else:
            mode = {"backend": backend} if backend else {"mode": "reduce-overhead"}
            _mark_whole(pipe.transformer, mode)
        if backend or device != "cpu":
            mark_decoder(pipe.vae, {"backend": backend} if backend else {})


def _set_limits(threads: int) -> None:
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES_IN_ALL
    from torch._inductor import config

    config.compile_threads = threads


def _mark_blocks(transformer: Any, how: dict[str, str]) -> None:
    type(transformer)._repeated_blocks = ["JointTransformerBlock"]  # unset for SD3
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, **how)


def _mark_whole(transformer: Any, how: dict[str, str]) -> None:
    """With CUDA graphs, which are of one shape each."""
    transformer.compile(fullgraph=True, dynamic=False, **how)
    compiled = transformer._compiled_call_impl

    def own(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        # A graph writes each answer where its last one was, and skip-layer guidance needs two.
        return tuple(each.clone() for each in compiled(*args, **kwargs))

    transformer._compiled_call_impl = own


def mark_decoder(vae: Any, how: dict[str, str]) -> None:
    vae.to(memory_format=torch.channels_last)  # what convolutions on tensor cores want
    vae.decoder.compile(dynamic=True, **how)
