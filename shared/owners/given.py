"""Keys that are not in the store: from the variable FARM_API_KEYS, and from a file.

The file has one `owner:key[:admin]` a line, or, named `.toml`, tables with every field of a grant:

    [[keys]]
    owner = "alice"
    key = "..."            # or sha256 = "64 hex digits"
    role = "admin"
    submits_per_min = 600
"""

from __future__ import annotations

import logging
import re
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from shared.errors import SettingsError
from shared.logs import event
from shared.owners.keys import Grant, Key, digest

LOOK_S = 1.0  # how often the file is looked at
_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):([!-9;-~]{1,512})(:admin)?")
log = logging.getLogger("api.keys")


def of_variable(text: str) -> tuple[Key, ...]:
    """Raises SettingsError, which never shows a key."""
    return _entries("FARM_API_KEYS: entry", "env", enumerate(text.split(), 1))


class KeyFile:
    """The keys of a file, read again when it changes; one that went bad changes nothing.

    Raises SettingsError when made.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen = self._signs()
        self._keys = _by_hash(_of_file(path))
        self._looked_at = clock()

    def keys(self) -> dict[str, Key]:
        """By SHA-256."""
        if self._clock() - self._looked_at >= LOOK_S:
            self._looked_at = self._clock()
            self._look()
        return self._keys

    def _look(self) -> None:
        signs = self._signs()
        if signs == self._seen:
            return
        self._seen = signs
        try:
            self._keys = _by_hash(_of_file(self._path))
        except SettingsError as error:
            event(log, "keys_not_read", logging.WARNING, reason=str(error))
        else:
            event(log, "keys_read", number=len(self._keys))

    def _signs(self) -> tuple[int, ...]:
        """Differs when the file does; Kubernetes swaps a link, so the inode tells."""
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _by_hash(keys: tuple[Key, ...]) -> dict[str, Key]:
    return {key.sha256: key for key in keys}


def _of_file(path: Path) -> tuple[Key, ...]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"FARM_API_KEYS_FILE cannot be read: {reason}") from None
    if path.suffix == ".toml":
        return _of_toml(text)
    lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
    wanted = ((n, line) for n, line in lines if line and not line.startswith("#"))
    return _entries("FARM_API_KEYS_FILE: line", "file", wanted)


def _entries(where: str, source: str, entries: Iterable[tuple[int, str]]) -> tuple[Key, ...]:
    found: list[Key] = []
    for number, entry in entries:
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise SettingsError(f"{where} {number} is not owner:key[:admin]")
        owner, text, admin = match.groups()
        fields = {"owner": owner, "role": "admin" if admin else "user"}
        _put(found, where, number, Key(id=f"{source}-{number}", sha256=digest(text), **fields))
    return tuple(found)


class _Table(Grant):
    """A table of the file: a grant, and the key or its hash. A misspelt field is refused."""

    model_config = ConfigDict(extra="forbid")

    key: str | None = None
    sha256: str | None = None


def _of_toml(text: str) -> tuple[Key, ...]:
    where = "FARM_API_KEYS_FILE: key"
    try:
        tables: list[dict[str, Any]] = tomllib.loads(text).get("keys", [])
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"FARM_API_KEYS_FILE is not TOML: {_place(error)}") from None
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise SettingsError("FARM_API_KEYS_FILE: `keys` is not an array of tables, [[keys]]")
    found: list[Key] = []
    for number, fields in enumerate(tables, 1):
        try:
            table = _Table.model_validate(fields)
            if (table.key is None) == (table.sha256 is None):
                raise SettingsError(f"{where} {number} needs `key` or `sha256`, not both")
            sha256 = digest(table.key) if table.key else table.sha256
            grant = table.model_dump(include=set(Grant.model_fields))
            _put(found, where, number, Key(id=f"file-{number}", sha256=sha256 or "", **grant))
        except ValidationError as error:
            faults = error.errors(include_input=False, include_context=False, include_url=False)
            told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in faults)
            raise SettingsError(f"{where} {number}: {told}") from None
    return tuple(found)


def _place(error: tomllib.TOMLDecodeError) -> str:
    """Where, without what: the words around it may be a key."""
    match = re.search(r"\(at .*\)", str(error))
    return match[0] if match else "cannot be read"


def _put(found: list[Key], where: str, number: int, key: Key) -> None:
    if any(key.sha256 == earlier.sha256 for earlier in found):
        raise SettingsError(f"{where} {number} repeats an earlier key")
    found.append(key)
