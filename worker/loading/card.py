"""What a worker may know of its card before anything is read: plain numbers, no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Card:
    """One CUDA device. None stands for a CPU wherever a Card is asked for."""

    name: str
    capability: tuple[int, int]  # (8, 9): Ada; (9, 0): Hopper
    memory_bytes: int
    free_bytes: int  # what other processes left
    cuda: str  # the version that torch was built for, "13.0"

    @property
    def multiplies_fp8(self) -> bool:
        return self.capability >= (8, 9)


def gigabytes(count: float) -> str:
    """In units of 10**9 bytes, as weights are counted; a card of "24 GB" has 25.8 of them."""
    return f"{count / 1e9:.1f} GB"
