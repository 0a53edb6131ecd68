"""What an entry's engine cannot do, as far as the entry alone tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.models import ModelEntry

ONNX_PRECISIONS = ("fp32", "bf16", "fp16", "int8")


def unfit(entry: ModelEntry) -> str | None:
    """Why this entry's engine cannot serve it; None: nothing in the entry speaks against it."""
    if entry.engine != "onnx":
        return None
    return next((reason for wrong, reason in _onnx(entry) if wrong), None)


def _onnx(entry: ModelEntry) -> tuple[tuple[bool, str], ...]:
    """(whether it is so, what is wrong and what to do)."""
    precisions = ", ".join(ONNX_PRECISIONS)
    return (
        (
            not entry.source.startswith("dir:"),
            "its source is dir:FOLDER, a folder that `renderfarm models export` wrote",
        ),
        (entry.precision not in ONNX_PRECISIONS, f"its precision is one of {precisions}"),
        (
            entry.precision == "int8" and entry.provider in ("cuda", "tensorrt"),
            "int8 is multiplied by provider cpu alone: choose fp16 or bf16 for a GPU",
        ),
        (entry.t5 not in ("on", "off"), "its t5 is on or off"),
        (entry.placement != "gpu", "a graph cannot be moved: its placement is gpu"),
        (
            entry.compile != "off" or entry.profile is not None or entry.attention != "auto",
            "its provider compiles and chooses kernels: leave compile, profile and attention out",
        ),
        (entry.fuse_qkv, "its provider fuses what it can: leave fuse_qkv out"),
        (
            entry.vae_tiling or entry.allow_tiling,
            "it decodes in one piece: leave vae_tiling and allow_tiling out",
        ),
        (bool(entry.skip_layers), "a graph always runs whole: leave skip_layers out"),
    )
