"""Results in a folder of one host, or in one that every host of the farm mounts."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.errors import ResultGone, ResultsUnavailable
from shared.jobs import StoredResult
from shared.results import names
from shared.results.port import Kept

ABANDONED_S = 3600  # a file set aside for so long belongs to a process that died

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "raise the quota or free some space",
    errno.EACCES: "let this user read and write there",
    errno.EPERM: "let this user read and write there",
    errno.EROFS: "mount it writable",
    errno.ENOTDIR: "a file lies where a folder belongs",
}


class LocalResults:
    """Nothing is ever half written under its name.

    A file is written under `tmp/`, synced, renamed to its place, and the folder is synced: what
    `put` returned from survives a power cut. The names are the port's, so a folder can be copied
    into a bucket as it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._aside = folder / "tmp"

    def put(self, result: StoredResult, png: bytes, details: dict[str, Any]) -> None:
        picture = names.picture(result.fingerprint, result.token)
        record = names.record(result.fingerprint, result.token)
        with self._explained():
            self._write(picture, png)
            self._write(record, names.encode(result, details))

    def find(self, fingerprint: str) -> StoredResult | None:
        folder = self._folder / names.folder(fingerprint)
        with self._explained():
            for token in names.recorded_tokens(_listed(folder)):
                if result := self._complete(fingerprint, token):
                    return result
        return None

    def read(self, result: StoredResult, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        pieces = self._pieces(result, start, end)
        next(pieces)  # opens the file: ResultGone comes from this call, not from the first piece
        return pieces

    def delete(self, result: StoredResult | Kept) -> None:
        with self._explained():
            record = self._folder / names.record(result.fingerprint, result.token)
            record.unlink(missing_ok=True)
            (self._folder / names.picture(result.fingerprint, result.token)).unlink(missing_ok=True)
            with suppress(OSError):  # other results lie there, or somebody else was faster
                record.parent.rmdir()

    def walk(self) -> Iterator[Kept]:
        with self._explained():
            yield from names.gather(self._objects())

    def check(self) -> None:
        """Make the folder, write a file and take it away; sweep what dead processes left."""
        with self._explained():
            self._set_aside("check", b"renderfarm").unlink()
            self._sweep()

    def put_object(self, name: str, data: bytes, content_type: str) -> None:
        with self._explained():
            self._write(name, data)

    def get_object(self, name: str) -> bytes | None:
        with self._explained():
            try:
                return (self._folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def list_objects(self, folder: str) -> Iterator[str]:
        with self._explained():
            files = (path for path in (self._folder / folder).rglob("*") if path.is_file())
            yield from sorted(path.relative_to(self._folder).as_posix() for path in files)

    def delete_object(self, name: str) -> None:
        with self._explained():
            path = self._folder / name
            path.unlink(missing_ok=True)
            with suppress(OSError):  # other objects lie there, or somebody else was faster
                path.parent.rmdir()

    def _write(self, name: str, data: bytes) -> None:
        target = self._folder / name
        aside = self._set_aside(target.name, data)
        try:
            _rename(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        _sync(target.parent)
        _sync(target.parent.parent)

    def _set_aside(self, name: str, data: bytes) -> Path:
        self._aside.mkdir(parents=True, exist_ok=True)
        path = self._aside / f"{name}.{secrets.token_hex(8)}"
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _complete(self, fingerprint: str, token: str) -> StoredResult | None:
        try:
            data = (self._folder / names.record(fingerprint, token)).read_bytes()
            size = (self._folder / names.picture(fingerprint, token)).stat().st_size
        except (FileNotFoundError, IsADirectoryError):
            return None
        result = names.decode(data, fingerprint, token)
        return result if result and result.exact and result.size_bytes == size else None

    def _pieces(self, result: StoredResult, start: int, end: int | None) -> Iterator[bytes]:
        path = self._folder / names.picture(result.fingerprint, result.token)
        left = min(result.size_bytes, result.size_bytes if end is None else end) - start
        with self._explained(), _opened(path) as fd:
            if os.fstat(fd).st_size != result.size_bytes:
                raise ResultGone("The stored picture is not the one that its record describes.")
            yield b""
            while left > 0 and (piece := os.pread(fd, min(names.PIECE_BYTES, left), start)):
                yield piece
                start, left = start + len(piece), left - len(piece)

    def _objects(self) -> Iterator[tuple[str, int, float]]:
        for folder in _listed(self._folder / "renders"):
            with suppress(NotADirectoryError):  # a stranger's file
                for name in _listed(self._folder / "renders" / folder):
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        seen = (self._folder / "renders" / folder / name).stat()
                        yield f"renders/{folder}/{name}", seen.st_size, seen.st_mtime

    def _sweep(self) -> None:
        for path in self._aside.iterdir():
            with suppress(FileNotFoundError):  # another process sweeps too
                if path.stat().st_mtime < time.time() - ABANDONED_S:
                    path.unlink()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0)
            what = f"{error.strerror or error}{f': {remedy}' if remedy else ''}"
            raise ResultsUnavailable(f"The result folder {self._folder}: {what}") from error


def _listed(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ResultGone from None
    try:
        yield fd
    finally:
        os.close(fd)


def _rename(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except FileNotFoundError:  # `delete` took the empty folder away in between
        target.parent.mkdir(exist_ok=True)
        source.replace(target)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
