"""Compiled kernels kept from one start of a worker to the next, in one file for each setup."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from shared.fingerprint import encode
from shared.logs import event
from shared.models import ModelEntry

log = logging.getLogger("farm.worker")
# What a kernel depends on beside the model and the card.
PACKAGES = ("torch", "triton", "diffusers", "torchao", "renderfarm")
# Fields that decide what is compiled.
FIELDS = ("digest", "compile", "attention", "fuse_qkv", "placement", "sizes_to_warm")


@dataclass(slots=True)
class Kernels:
    """The compiler's own caches as one file. It is a cache: nothing that is wrong with it matters."""

    file: Path
    loaded: bool = False

    def load(self) -> None:
        """Before compiling. A damaged or foreign file is passed over, with a warning."""
        if not self.file.is_file():
            return
        try:
            sum_, stored = _split(self.file.read_bytes())
            if hashlib.sha256(stored).digest() != sum_:
                raise ValueError("its checksum does not fit")
            self.loaded = torch.compiler.load_cache_artifacts(stored) is not None
        except Exception as error:  # torch lets through whatever unpickling raises
            event(log, "kernels_ignored", logging.WARNING, file=str(self.file), reason=str(error))

    def save(self) -> None:
        """After the warm-up; only what was not loaded."""
        if self.loaded or not (made := torch.compiler.save_cache_artifacts()):
            return
        aside = self.file.with_suffix(f".{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(hashlib.sha256(made[0]).digest() + made[0])
            aside.replace(self.file)
        except OSError as error:
            event(log, "kernels_not_saved", logging.WARNING, reason=str(error))


def kernels_of(entry: ModelEntry, folder: Path, device: str) -> Kernels:
    """The file of exactly this setup: another library, card or size list has another one."""
    fields = {name: getattr(entry, name) for name in FIELDS}
    setup = fields | {"card": _card(device)} | {name: _version(name) for name in PACKAGES}
    return Kernels(folder / f"{hashlib.sha256(encode(setup)).hexdigest()[:32]}.kernels")


def _split(content: bytes) -> tuple[bytes, bytes]:
    size = hashlib.sha256().digest_size
    return content[:size], content[size:]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _card(device: str) -> list[str]:
    if device == "cpu":
        return [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    capability = torch.cuda.get_device_capability(device)
    return [torch.cuda.get_device_name(device), str(capability), str(torch.version.cuda)]
