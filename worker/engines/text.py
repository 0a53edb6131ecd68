"""Prompts to embeddings, with a memory of the last ones: many seeds of one prompt encode it once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch

from worker.engines.ladder import Ladder

REMEMBERED_BYTES = 256 * 2**20  # on the device; a prompt has 2.7 MB in bfloat16
Embeddings = tuple[torch.Tensor, torch.Tensor]  # (1, 77 + T5 length, 4096), (1, 2048)
Key = tuple[str, Hashable]


class Prompts:
    """The text encoders of one pipeline, wherever they rest."""

    def __init__(
        self,
        pipe: Any,
        device: torch.device,
        max_sequence_length: int,
        ladder: Ladder,
        remembered_bytes: int = REMEMBERED_BYTES,
    ) -> None:
        self._pipe = pipe
        self._device = device
        self._max_sequence_length = max_sequence_length
        self._ladder = ladder
        self._most_bytes = remembered_bytes
        self._bytes = 0
        self._remembered: OrderedDict[Key, Embeddings] = OrderedDict()  # the last used at the end
        self._hits = 0
        self._misses = 0

    def embed(self, prompt: str, adapters: Hashable = ()) -> Embeddings:
        """The same for both roles: an embedding does not know whether it will be negative.

        `adapters` names what is active in the text encoders. What else decides an embedding (the
        encoders, their precision, the token limit) is the same for the life of an engine.
        """
        key = (prompt, adapters)
        if made := self._remembered.get(key):
            self._hits += 1
            self._remembered.move_to_end(key)
            return made
        self._misses += 1
        made = self._encode(prompt)
        self._remember(key, made)
        return made

    @property
    def counts(self) -> tuple[int, int]:
        """How many prompts were remembered and how many encoded, since the engine was made."""
        return self._hits, self._misses

    def clear(self) -> None:
        self._remembered.clear()
        self._bytes = 0

    def _remember(self, key: Key, made: Embeddings) -> None:
        self._remembered[key] = made
        self._bytes += _size_bytes(made)
        # The empty prompt stays: it is the negative of every order that names none.
        oldest = [other for other in self._remembered if other[0]]
        while self._bytes > self._most_bytes and oldest:
            self._bytes -= _size_bytes(self._remembered.pop(oldest.pop(0)))

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


def _size_bytes(made: Embeddings) -> int:
    return sum(tensor.nbytes for tensor in made)
