"""What an exception of torch says about the device."""

from __future__ import annotations

import torch

_NO_MEMORY = ("out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Also where memory ended outside torch's allocator: in a library, or in CUDA itself."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return _is_cuda(error) and any(words in str(error) for words in _NO_MEMORY)


def is_device_fault(error: BaseException) -> bool:
    """The CUDA context is broken: every later call fails too, until the process ends.

    Some errors of this form would pass; to tell them apart is not worth a worker that stays sick.
    """
    return _is_cuda(error) and not is_out_of_memory(error)


def _is_cuda(error: BaseException) -> bool:
    # torch.AcceleratorError is a RuntimeError with this text, and older torch has only the text
    return isinstance(error, RuntimeError) and str(error).startswith("CUDA error: ")
