"""The small decoder that shows previews, where an entry names one."""

from __future__ import annotations

from pathlib import Path

import torch

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.engines.previews import Sketch


def sketch_of(entry: ModelEntry, device: str, dtype: torch.dtype) -> Sketch | None:
    """Raises ModelError for a folder that is no AutoencoderTiny for 16 channels."""
    if not entry.preview_decoder:
        return None
    from diffusers import AutoencoderTiny

    folder = Path(entry.preview_decoder).expanduser()
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}, which {entry.id} names as preview_decoder")
    try:
        decoder = AutoencoderTiny.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"the preview_decoder {folder} cannot be loaded: {why}") from error
    if decoder.config.latent_channels != 16:
        channels = decoder.config.latent_channels
        raise ModelError(f"the preview_decoder {folder} has {channels} channels, SD3's have 16")
    return Sketch(decoder.to(device))
