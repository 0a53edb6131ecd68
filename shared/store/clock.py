"""The farm's clock of the memory store: what `now` and the reaper are in Lua."""

from __future__ import annotations

from collections.abc import Callable

SLEW_S = 0.1


class FarmClock:
    """Unix seconds that never go back, whatever `wall` does.

    When `wall` is set back it stands still until the next `turn`; from then on it is ahead, and is
    caught up with by `SLEW_S` in each turn.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._ahead_s = 0.0
        self._turned_at = 0.0

    def __call__(self) -> float:
        return max(self._wall() + self._ahead_s, self._turned_at)

    def turn(self) -> None:
        """The reaper comes."""
        time = self._wall() + self._ahead_s
        gain_s = self._turned_at - time
        if gain_s < 0:
            gain_s = -min(self._ahead_s, SLEW_S, -gain_s / 2)
        self._ahead_s += gain_s
        self._turned_at = time + gain_s
