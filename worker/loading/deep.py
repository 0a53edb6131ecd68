"""The long look at a model folder: every byte of the weights is read."""

from __future__ import annotations

from pathlib import Path

from worker.loading import manifest
from worker.loading.findings import Fault, Findings
from worker.loading.parts import Wanted, files_of
from worker.loading.progress import Progress, Tally, unseen


def look_deep(
    folder: Path, wanted: Wanted, progress: Progress = unseen
) -> tuple[list[Fault], bool]:
    """Numbers that are not finite, and files that differ from the manifest; and whether there is one.

    Needs torch. For a folder that passed the preflight.
    """
    found = Findings(folder)
    names = files_of(folder, wanted)
    weights = [name for name in names if name.endswith(".safetensors")]
    listed = names if (folder / manifest.NAME).is_file() else []
    total = sum((folder / name).stat().st_size for name in [*weights, *listed])
    tally = Tally(progress, total)
    compared = manifest.compare(found, names, tally)
    for name in weights:
        _look_at_numbers(found, name, tally)
    return found.faults, compared


def _look_at_numbers(found: Findings, name: str, tally: Tally) -> None:
    from safetensors import safe_open

    with safe_open(found.folder / name, framework="pt") as opened:
        bad = [key for key in opened.keys() if not _finite(opened.get_tensor(key))]  # noqa: SIM118
    if bad:
        message = f"{len(bad)} tensors of {name} hold NaN or infinity, such as {bad[0]}"
        found.add(name.split("/")[0], "not_finite", message)
    tally.add((found.folder / name).stat().st_size)


def _finite(tensor: object) -> bool:
    import torch

    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:  # torch has no isfinite for some of the 8-bit floats
        tensor = tensor.float()
    return bool(torch.isfinite(tensor).all())
