"""The kernel that computes attention: torch's choice, or the one that a model entry pins.

diffusers' own switch is accepted by SD3 and does nothing, since its stock processors call torch
directly; so the choice is made with torch's switches, around all that runs.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, activate_flash_attention_impl, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from shared.errors import ModelError
from shared.logs import event
from shared.models import ModelEntry

log = logging.getLogger("farm.worker")
PINNED = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "flash3": SDPBackend.FLASH_ATTENTION,  # once FlashAttention 3 has taken it over
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
FUSED = ("cudnn", "flash", "efficient")  # parts of the names of torch's operators
PROBED_TOKENS = 333 + 4096  # of 1024 px and its prompt: no multiple of 128, which old cuDNN minded


@dataclass(slots=True, frozen=True)
class Attention:
    """`kernel` is what ran when it was tried out. Not `pinned`: torch chooses at each call."""

    kernel: str
    pinned: SDPBackend | None = None

    def chosen(self) -> AbstractContextManager[Any]:
        """Everything inside computes its attention so; compiled code as it was when compiled."""
        return sdpa_kernel(self.pinned) if self.pinned else nullcontext()


TORCHS_CHOICE = Attention("auto")  # not tried out


def attention_of(entry: ModelEntry, transformer: Any, device: torch.device) -> Attention:
    """Raises ModelError for a kernel that this device or this installation does not have."""
    if entry.attention == "flash3":
        _activate_flash3(entry)
    pinned = PINNED.get(entry.attention)  # `auto` and `sdpa` pin none
    head_dim = transformer.config.attention_head_dim
    try:
        with sdpa_kernel(pinned) if pinned else nullcontext():
            kernel = _that_runs(head_dim, device, transformer.dtype)
    except RuntimeError as error:
        message = f"attention {entry.attention} of {entry.id} does not run on {device}: use auto"
        raise ModelError(message) from error
    kernel = "flash3" if entry.attention == "flash3" else kernel
    cudnn: Any = torch.backends.cudnn
    event(log, "attention", kernel=kernel, wanted=entry.attention, cudnn=cudnn.version())
    return Attention(kernel, pinned)


def _that_runs(head_dim: int, device: torch.device, dtype: torch.dtype) -> str:
    """Tried out with one head: neither heads nor batch move torch's choice."""
    with torch.inference_mode(False), torch.no_grad(), _Seen() as seen:  # inference mode hides it
        tokens = torch.zeros((1, 1, PROBED_TOKENS, head_dim), device=device, dtype=dtype)
        scaled_dot_product_attention(tokens, tokens, tokens)
    return next((kernel for kernel in FUSED for name in seen.names if kernel in name), "math")


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The names of the operators that run inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))


def _activate_flash3(entry: ModelEntry) -> None:
    try:
        activate_flash_attention_impl("FA3")
    except (ImportError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"attention flash3 of {entry.id} needs the package flash_attn_interface, which is "
            "built from FlashAttention's source: use auto, which takes cuDNN on such cards"
        ) from error
