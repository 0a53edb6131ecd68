"""Redis' wire protocol, as much as a proxy needs: where a request ends, and which words it has."""

from __future__ import annotations

from collections.abc import Iterator


class Requests:
    """Bytes of one client in, whole requests out; a request keeps the bytes that it came in."""

    def __init__(self) -> None:
        self._waiting = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
        """(raw, words) of each request that is complete now."""
        self._waiting += data
        while request := _first(self._waiting):
            end, words = request
            raw, self._waiting = self._waiting[:end], self._waiting[end:]
            yield raw, words


def _first(data: bytes) -> tuple[int, list[bytes]] | None:
    """(where it ends, its words) of the request that the data starts with; None: incomplete."""
    line = _number(data, 0, b"*")
    if line is None:
        return None
    count, at = line
    words = []
    for _ in range(count):
        line = _number(data, at, b"$")
        if line is None or len(data) < line[1] + line[0] + 2:
            return None
        length, at = line
        words.append(data[at : at + length])
        at += length + 2
    return at, words


def _number(data: bytes, at: int, mark: bytes) -> tuple[int, int] | None:
    """A line such as `*3`: (3, where the next line begins)."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    if data[at : at + 1] != mark:
        raise ValueError(f"not a Redis request: {data[at:end][:80]!r}")
    return int(data[at + 1 : end]), end + 2
