"""One repository over the two routes of ModelScope's file API: what it lists, and one file of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import httpx2

from worker.loading.manifest import sha256_of
from worker.loading.progress import Tally

ATTEMPTS = 4
PAUSE_S = 1.0  # before the second attempt; it doubles
T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class File:
    name: str
    size_bytes: int
    sha256: str  # empty where the service does not say

    def is_in(self, folder: Path) -> bool:
        """A file is renamed into place when it is whole, so its length tells."""
        place = folder / self.name
        return place.is_file() and place.stat().st_size == self.size_bytes

    def is_whole(self, partial: Path) -> bool:
        if _size_bytes(partial) != self.size_bytes:
            return False
        return not self.sha256 or sha256_of(partial) == self.sha256


@dataclass(slots=True, frozen=True)
class Repository:
    """`client` knows the service and its token. What it raises is httpx2's, or a ValueError."""

    client: httpx2.Client
    name: str
    revision: str

    def files(self) -> list[File]:
        answer = _patiently(self._list)
        listed = [file for file in answer["Data"]["Files"] if file.get("Type", "blob") == "blob"]
        return [File(_safe(f["Path"]), int(f["Size"]), str(f.get("Sha256") or "")) for f in listed]

    def fetch(self, file: File, folder: Path, tally: Tally) -> None:
        """Into the folder, going on where an earlier attempt ended."""
        place = folder / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(place.name + ".incomplete")
        tally.add(_size_bytes(partial))
        _patiently(lambda: self._go_on(file, partial, tally))
        if not file.is_whole(partial):
            partial.unlink()
            raise ValueError(f"{file.name} arrived as another file than it is listed as")
        partial.replace(place)

    @property
    def _route(self) -> str:
        return f"/api/v1/models/{self.name}/repo"

    def _list(self) -> Any:
        query = {"Revision": self.revision, "Recursive": "True"}
        response = self.client.get(f"{self._route}/files", params=query)
        response.raise_for_status()
        return response.json()

    def _go_on(self, file: File, partial: Path, tally: Tally) -> None:
        """Fetch what `partial` lacks. Raises TransportError where the connection ends before the file."""
        have = _size_bytes(partial)
        if have >= file.size_bytes > 0:
            return
        query = {"Revision": self.revision, "FilePath": file.name}
        wants = {"Range": f"bytes={have}-"} if have else {}
        with self.client.stream("GET", self._route, params=query, headers=wants) as response:
            response.raise_for_status()
            goes_on = response.status_code == httpx2.codes.PARTIAL_CONTENT
            if not goes_on:
                tally.add(-have)
            with partial.open("ab" if goes_on else "wb") as opened:
                for piece in response.iter_bytes():
                    opened.write(piece)
                    tally.add(len(piece))
        if _size_bytes(partial) < file.size_bytes:
            raise httpx2.RemoteProtocolError(f"{file.name} was cut short")


def _safe(name: str) -> str:
    """A server's name of a file, refused where it leads out of the folder. Raises ValueError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it lists a file {name!r}")
    return name


def _patiently(ask: Callable[[], T]) -> T:
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask()
        except (httpx2.TransportError, httpx2.HTTPStatusError) as error:
            if not _may_pass(error):
                raise
        time.sleep(PAUSE_S * 2**attempt)
    return ask()


def _may_pass(error: httpx2.HTTPError) -> bool:
    return not isinstance(error, httpx2.HTTPStatusError) or error.response.is_server_error


def _size_bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
