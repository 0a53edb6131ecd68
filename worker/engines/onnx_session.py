"""One ONNX graph under ONNX Runtime: the session on its provider, and a call on torch's memory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared.errors import ModelError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
ELEMENTS = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}  # onnx.TensorProto.DataType
ERRORS_ONLY = 3
_NO_MEMORY = ("Failed to allocate memory", "out of memory", "ALLOC_FAILED")


@dataclass(slots=True, frozen=True)
class Graph:
    """A session whose inputs and outputs stay on `device`, in torch's own tensors."""

    session: Any
    device: torch.device

    def __call__(self, size: tuple[int, ...], **inputs: Tensor) -> Tensor:
        """The graph's one output, of that size, in the dtype of the first input.

        Nothing is copied between host and device. Raises torch.OutOfMemoryError, and RuntimeError
        as torch words it where the device failed (faults.py).
        """
        fed = {name: tensor.to(self.device).contiguous() for name, tensor in inputs.items()}
        output = torch.empty(size, dtype=next(iter(fed.values())).dtype, device=self.device)
        binding = self.session.io_binding()
        for name, tensor in fed.items():
            binding.bind_input(name, *_place(tensor))
        binding.bind_output(self.session.get_outputs()[0].name, *_place(output))
        self._wait()  # ONNX Runtime has a stream of its own: torch's must have written the inputs
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:
            raise _as_torch(error) from error
        binding.synchronize_outputs()
        return output

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()


def runtime() -> Any:
    """The module onnxruntime. Raises ModelError where it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "engine onnx needs ONNX Runtime, which is not installed: pip install "
            "'renderfarm[onnx]', or 'renderfarm[onnx-gpu]' where there is a GPU"
        ) from error
    return onnxruntime


def open_session(file: Path, provider: str, options: Mapping[str, str], threads: int) -> Any:
    """`provider` is a key of PROVIDERS; `threads` 0 leaves their number to ONNX Runtime.

    Raises ModelError, also where the provider is missing: by itself ONNX Runtime would warn and
    compute on the CPU.
    """
    ort = runtime()
    how = ort.SessionOptions()
    how.intra_op_num_threads = threads
    how.inter_op_num_threads = 1
    how.log_severity_level = ERRORS_ONLY
    wanted = PROVIDERS[provider]
    providers: list[Any] = [(wanted, dict(options))]
    if provider == "tensorrt":  # what TensorRT leaves over
        providers.append((PROVIDERS["cuda"], {"device_id": options["device_id"]}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said better below
            session = ort.InferenceSession(file, how, providers=providers, enable_fallback=0)
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"ONNX Runtime cannot open {file} with {wanted}: {why}") from error
    if session.get_providers()[0] != wanted:
        raise ModelError(
            f"this machine's ONNX Runtime {ort.__version__} has no working {wanted}: install "
            "'renderfarm[onnx-gpu]' in place of 'renderfarm[onnx]', with the CUDA, cuDNN and "
            "TensorRT libraries it names, or set the entry's provider to cpu"
        )
    return session


def _place(tensor: Tensor) -> tuple[str, int, int, tuple[int, ...], int]:
    """Device kind and number, element type, size and address, as a binding takes them."""
    where = tensor.device
    return where.type, where.index or 0, ELEMENTS[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()  # fmt: skip


def _as_torch(error: Exception) -> Exception:
    """The words of ONNX Runtime for memory that ended and a device that failed, as torch's."""
    words = f"{error}".splitlines()[0]
    if any(sign in words for sign in _NO_MEMORY):
        return torch.OutOfMemoryError("ONNX Runtime has too little memory on the device")
    _, failed, what = words.partition("CUDA failure ")
    return RuntimeError(f"CUDA error: {what.partition(' ;')[0]}") if failed else error
