"""The adapters of one pipeline: hung in for a render, and off again whatever its end.

peft keeps each beside the layer that it changes and never touches the layer itself: with all of
them off, the model is bit for bit what it was. They are never fused, which is not undone exactly.
"""

from __future__ import annotations

import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate.hooks import CpuOffload  # type: ignore[import-untyped]

from shared.errors import ModelError, RenderFailed
from shared.jobs import LoraRef
from shared.logs import event
from worker.engines.lora_file import Pair, check_fit, layers_of

log = logging.getLogger("farm.worker")
KEPT_BYTES = 2**30  # of adapters on the device
NAME_LENGTH = 32  # of all alike: peft compares names as parts of one another
ReadLora = Callable[[LoraRef], dict[str, Pair]]  # raises ModelError


def none_known(_ref: LoraRef) -> dict[str, Pair]:
    """Where nobody has told of any LoRA."""
    raise ModelError("this worker knows no LoRAs")


class Loras:
    """Adapters by the hash of their file; `lock` is held while one is loaded."""

    def __init__(
        self,
        pipe: Any,
        dtype: torch.dtype,
        read: ReadLora,
        lock: AbstractContextManager[Any],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._pipe = pipe
        self._dtype = dtype
        self._read = read
        self._lock = lock
        self._kept_bytes = kept_bytes
        self._layers = layers_of(pipe.transformer)
        self._sizes: OrderedDict[str, int] = OrderedDict()  # bytes; the latest used is the last

    @property
    def kept(self) -> tuple[str, ...]:
        """What is loaded, the longest unused first."""
        return tuple(self._sizes)

    @contextmanager
    def worn(self, refs: Sequence[LoraRef]) -> Iterator[None]:
        """Inside, the transformer has these adapters, and no others. Raises RenderFailed."""
        scales = {_name(lora): lora.scale for lora in refs if lora.scale}
        if not scales:
            yield
            return
        try:
            with _quiet_peft():
                for lora in refs:
                    self._have(lora, scales)
                self._pipe.transformer.set_adapters(list(scales), list(scales.values()))
                self._pipe.transformer.enable_adapters()
            yield
        finally:
            if self._sizes:  # a new one is on, also where the next could not be loaded
                self._pipe.transformer.disable_adapters()

    def clear(self) -> None:
        """Give their memory back."""
        if self._sizes:
            self._pipe.transformer.unload_lora()
            self._sizes.clear()

    def _have(self, lora: LoraRef, wanted: dict[str, float]) -> None:
        name = _name(lora)
        if name not in wanted:
            return
        if name in self._sizes:
            self._sizes.move_to_end(name)
            return
        try:
            pairs = self._read(lora)
            check_fit(pairs, self._layers)
        except ModelError as error:
            raise _unusable(lora, str(error)) from error
        weights = self._weights(pairs)
        size = sum(weight.nbytes for weight in weights.values())
        self._make_room(size, wanted)
        self._load(lora, name, weights)
        self._sizes[name] = size
        event(log, "lora_loaded", lora=lora.name, sha256=lora.sha256, size_bytes=size)

    def _weights(self, pairs: dict[str, Pair]) -> dict[str, torch.Tensor]:
        weights = {}
        for layer, pair in pairs.items():
            weights[f"{layer}.lora_A.weight"] = pair.down.to(self._dtype)
            weights[f"{layer}.lora_B.weight"] = pair.up.to(self._dtype)
        return weights

    def _make_room(self, size: int, wanted: dict[str, float]) -> None:
        """Unload the longest unused; those of this render stay, however large they are together."""
        for name in [name for name in self._sizes if name not in wanted]:
            if sum(self._sizes.values()) + size <= self._kept_bytes:
                return
            self._pipe.transformer.delete_adapters(name)
            del self._sizes[name]

    def _load(self, lora: LoraRef, name: str, weights: dict[str, torch.Tensor]) -> None:
        transformer = self._pipe.transformer
        try:
            with self._lock:
                transformer.load_lora_adapter(
                    weights,
                    prefix=None,
                    adapter_name=name,
                    low_cpu_mem_usage=True,
                    _pipeline=self._rehooked(),
                )
        except BaseException:
            self._forget(name)
            raise
        if name not in getattr(transformer, "peft_config", {}):
            raise _unusable(lora, "nothing of it was loaded")

    def _rehooked(self) -> Any:
        """The pipeline, whose hooks of offload have to learn of new layers.

        Not where the transformer moves as a whole: it takes them along, and diffusers would put
        the hooks on again for whatever card comes first.
        """
        hook = getattr(self._pipe.transformer, "_hf_hook", None)
        return None if isinstance(hook, CpuOffload) else self._pipe

    def _forget(self, name: str) -> None:
        """A load that fails may leave an empty adapter behind."""
        if name in getattr(self._pipe.transformer, "peft_config", {}):
            self._pipe.transformer.delete_adapters(name)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """It warns of a second adapter, and of one that is deleted after it was on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="peft")
        yield


def _name(lora: LoraRef) -> str:
    return lora.sha256[:NAME_LENGTH]


def _unusable(lora: LoraRef, why: str) -> RenderFailed:
    return RenderFailed("lora_unusable", f"the LoRA {lora.name} cannot be used: {why}")
