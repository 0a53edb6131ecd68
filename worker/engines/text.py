"""Prompts to embeddings, with a memory of the last ones: many seeds of one prompt encode it once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from worker.engines.ladder import Ladder

PROMPTS_KEPT = 32  # a prompt's embeddings are about 3 MB on the device
Embeddings = tuple[torch.Tensor, torch.Tensor]  # (1, 77 + T5 length, 4096), (1, 2048)


class Prompts:
    """The text encoders of one pipeline, wherever they rest."""

    def __init__(
        self, pipe: Any, device: torch.device, max_sequence_length: int, ladder: Ladder
    ) -> None:
        self._pipe = pipe
        self._device = device
        self._max_sequence_length = max_sequence_length
        self._ladder = ladder
        self._remembered = lru_cache(PROMPTS_KEPT)(self._encode)

    def embed(self, prompt: str) -> Embeddings:
        """The same for both roles: an embedding does not know whether it will be negative."""
        return self._remembered(prompt)

    @property
    def counts(self) -> tuple[int, int]:
        """How many prompts were remembered and how many encoded, since `clear`."""
        info = self._remembered.cache_info()
        return info.hits, info.misses

    def clear(self) -> None:
        self._remembered.cache_clear()

    def _encode(self, prompt: str) -> Embeddings:
        with self._ladder.encoders():
            sequence, _, pooled, _ = self._pipe.encode_prompt(
                prompt,
                None,
                None,
                device=self._device,
                do_classifier_free_guidance=False,
                max_sequence_length=self._max_sequence_length,
            )
        return sequence, pooled
