"""Whether this machine's card holds a model, by arithmetic: nothing is loaded, and no torch."""

from __future__ import annotations

from pathlib import Path

from shared.errors import ModelError
from shared.models import ModelEntry


def card_bytes() -> int | None:
    """Memory of the largest NVIDIA card here; None where there is none, or nothing to ask it with."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return None
    try:
        cards = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return max(
            (int(pynvml.nvmlDeviceGetMemoryInfo(card).total) for card in cards), default=None
        )
    finally:
        pynvml.nvmlShutdown()


def placements(entry: ModelEntry, folder: Path | None, memory_bytes: int) -> tuple[str, ...] | None:
    """Those that so much memory holds, the fastest first.

    None: only its files can tell, or not even they (what an ONNX provider takes, it says nowhere).
    """
    if entry.engine != "diffusers":
        return None
    from worker.loading.fit import holds, need
    from worker.loading.weights import counted, known

    try:
        weights = known(entry) or (counted(folder) if folder else None)
    except ModelError:  # damaged: `check` says how
        return None
    return holds(need(entry, weights), memory_bytes) if weights else None
