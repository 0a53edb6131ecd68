"""What is given up, rung by rung, when the device has too little memory for a render.

The first rungs keep every pixel and stay taken: memory that was short once will be short again. The
last one does not: only a model entry that says `allow_tiling` has it, it is taken for one render
at a time, and what it draws is marked inexact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch

from shared.logs import event
from shared.models import ModelEntry

log = logging.getLogger("farm.worker")
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TILE_LATENTS = 64  # a tile's side: 512 px, so that pictures of 1024 px profit


class Rung(StrEnum):
    empty_caches = "empty-caches"  # before every render
    text_encoders_off = "text-encoders-off"  # on the device only while they encode
    model_offload = "model-offload"  # on the device only what works
    vae_tiling = "vae-tiling"  # decoded in tiles whose seams are blended


def rungs_of(entry: ModelEntry, device: torch.device) -> tuple[Rung, ...]:
    """The rungs that help this entry on this device, in order."""
    chosen = [Rung.empty_caches]
    if entry.placement in ("gpu", "text-offload") and device.type != "cpu":
        if entry.placement == "gpu":
            chosen.append(Rung.text_encoders_off)
        if entry.compile != "full":  # its CUDA graphs know where each weight lies
            chosen.append(Rung.model_offload)
    if entry.allow_tiling and not entry.vae_tiling:
        chosen.append(Rung.vae_tiling)
    return tuple(chosen)


class Ladder:
    """Where one pipeline stands on its rungs. `text_offload`: its encoders rest off the device."""

    def __init__(
        self, pipe: Any, device: torch.device, rungs: Sequence[Rung], *, text_offload: bool = False
    ) -> None:
        self._pipe = pipe
        self._device = device
        self._exact = [rung for rung in rungs if rung is not Rung.vae_tiling]
        self._may_tile = Rung.vae_tiling in rungs
        self._parked: dict[str, Any] = {}
        self._taken: Rung | None = None
        self._tiling = False
        if text_offload:
            self._park()

    @property
    def rung(self) -> Rung | None:
        return Rung.vae_tiling if self._tiling else self._taken

    def begin(self) -> None:
        """Before every render."""
        if self._taken:
            empty_cache(self._device)
        if self._tiling:
            self._tiling = False
            self._pipe.vae.disable_tiling()

    def step_down(self) -> bool:
        """Take the next rung; False: this was the last."""
        if self._exact:
            self._taken = self._exact.pop(0)
            event(log, "ladder", logging.WARNING, rung=self._taken.value)
            self._take(self._taken)
        elif self._may_tile and not self._tiling:
            event(log, "ladder", logging.WARNING, rung=Rung.vae_tiling.value)
            self._tile()
        else:
            return False
        empty_cache(self._device)
        return True

    def is_exact(self, latents: torch.Tensor) -> bool:
        """Whether decoding these latents (1, 16, H/8, W/8) keeps every pixel."""
        return not self._tiling or max(latents.shape[-2:]) <= TILE_LATENTS

    @contextmanager
    def encoders(self) -> Iterator[None]:
        """The text encoders are on the device inside, wherever they rest."""
        if not self._parked:
            yield
            return
        try:
            for name, encoder in self._parked.items():
                setattr(self._pipe, name, encoder.to(self._device))
            yield
        finally:
            self._park()

    def _take(self, rung: Rung) -> None:
        if rung is Rung.text_encoders_off:
            self._park()
        elif rung is Rung.model_offload:
            for name, encoder in self._parked.items():
                setattr(self._pipe, name, encoder)
            self._parked = {}
            self._pipe.enable_model_cpu_offload(device=self._device)

    def _park(self) -> None:
        # Taken out of the pipeline, which would else believe that it lives where they do.
        for name in ENCODERS:
            if (encoder := getattr(self._pipe, name)) is not None:
                self._parked[name] = encoder.to("cpu")
                setattr(self._pipe, name, None)

    def _tile(self) -> None:
        vae = self._pipe.vae
        vae.tile_latent_min_size = TILE_LATENTS
        vae.tile_sample_min_size = TILE_LATENTS * 2 ** (len(vae.config.block_out_channels) - 1)
        vae.enable_tiling()
        self._tiling = True


def ladder_of(pipe: Any, entry: ModelEntry, device: torch.device) -> Ladder:
    """As its entry's placement begins."""
    rungs, off = rungs_of(entry, device), entry.placement == "text-offload"
    return Ladder(pipe, device, rungs, text_offload=off)


def empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
