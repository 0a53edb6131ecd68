"""Whether weights are those of their configuration: names and shapes, without reading a tensor."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from worker.loading.findings import Findings
from worker.loading.headers import Shapes

_TIED = ("shared.weight", "encoder.embed_tokens.weight")  # of T5: either stands for both


def compare_shapes(
    found: Findings, part: str, made_by: tuple[str, str], config: dict[str, Any], have: Shapes
) -> None:
    """`made_by`: (library, class). The network is built on the meta device: no memory, no weights."""
    if "quantization_config" in config:
        return  # packed: other names and shapes, which the library itself checks
    try:
        want = _expected(made_by, config)
    except Exception as error:  # whatever a constructor makes of a wrong configuration
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        found.add(part, "bad_config", f"{part}/config.json makes no {made_by[1]}: {why}")
        return
    tied = _TIED if any(name in have for name in _TIED) else ()
    lost = [name for name in want if name not in have and name not in tied]
    if lost:
        message = f"{part} has no weights for {len(lost)} of its tensors, such as {lost[0]}"
        found.add(part, "missing_tensors", f"{message}: they would be random")
    other = [name for name in want if name in have and have[name] != want[name]]
    if other:
        first = other[0]
        message = (
            f"{len(other)} tensors of {part} have another shape than its config.json says, such as"
        )
        found.add(part, "shape", f"{message} {first}: {have[first]} instead of {want[first]}")


def _expected(made_by: tuple[str, str], config: dict[str, Any]) -> Shapes:
    library, name = made_by
    cls: Any = getattr(import_module(library), name)
    with torch.device("meta"):
        if library == "diffusers":
            network = cls.from_config(config)
        else:
            network = cls(cls.config_class.from_dict(config))
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
