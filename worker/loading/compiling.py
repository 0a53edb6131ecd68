"""torch.compile of the transformer, as its entry asks; `off` is always the way out."""

from __future__ import annotations

from typing import Any

import torch

from shared.models import ModelEntry
from worker.loading.steps import Report, step


def mark(transformer: Any, entry: ModelEntry, report: Report) -> None:
    """Only marks what to compile; the warm-up compiles it."""
    if entry.compile == "off":
        report("compile", "skipped")
        return
    with step("compile", report):
        # fullgraph raises at the limit, and every size, batch and length counts.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.accumulated_recompile_limit = 1024
        if entry.compile == "regional":
            type(transformer)._repeated_blocks = ["JointTransformerBlock"]  # unset for SD3
            transformer.compile_repeated_blocks(fullgraph=True, dynamic=True)
        else:
            transformer.compile(fullgraph=True, mode="reduce-overhead")
