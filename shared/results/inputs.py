"""Input pictures in the result store: named by their pixels, one copy for each owner and day.

    inputs/<sha256>/<owner>.<day>.png    `owner` is a hash of the name, `day` is UTC

Which owner may refer to a picture is which owner has a copy of it. Each use puts the copy of its own
day, and gc takes only copies of days that are over: so neither needs to know of the other, and a
picture that is ordered while gc runs is never the one that gc takes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

from shared.errors import FarmError
from shared.results.port import ResultStore

FRESH_DAYS = 2  # a copy stands so long without being referred to

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(
    r"inputs/(?P<sha256>[0-9a-f]{64})/(?P<owner>[0-9a-f]{16})\.(?P<day>[0-9-]{10})\.png"
)


class InputMissing(FarmError):
    """The input picture is not stored, or not for this owner."""


@dataclass(slots=True, frozen=True, order=True)
class Copy:
    sha256: str
    day: date
    owner: str  # hashed

    @property
    def name(self) -> str:
        return f"{_folder(self.sha256)}{self.owner}.{self.day.isoformat()}.png"


def _today() -> date:
    return datetime.now(UTC).date()


class Inputs:
    """Thread-safe. Every method raises ResultsUnavailable when the storage does not answer."""

    def __init__(self, objects: ResultStore, today: Callable[[], date] = _today) -> None:
        self._objects = objects
        self._today = today

    def put(self, owner: str, sha256: str, png: bytes) -> None:
        copy = Copy(sha256, self._today(), _hashed(owner))
        self._objects.put_object(copy.name, png, "image/png")

    def get(self, sha256: str) -> bytes:
        """For a worker, which acts for whoever ordered. Raises InputMissing."""
        return self._read(self._copies(sha256))

    def of(self, owner: str, sha256: str) -> bytes:
        """This owner's copy. Raises InputMissing."""
        return self._read([c for c in self._copies(sha256) if c.owner == _hashed(owner)])

    def renew(self, owner: str, sha256: str) -> bytes:
        """As `of`, and the copy is as if it were put today."""
        png = self.of(owner, sha256)
        today = Copy(sha256, self._today(), _hashed(owner)).name
        if today not in self._objects.list_objects(_folder(sha256)):
            self._objects.put_object(today, png, "image/png")
        return png

    def walk(self) -> Iterator[Copy]:
        """Every copy that is no longer fresh."""
        for name in self._objects.list_objects("inputs/"):
            copy = _copy(name)
            if copy and (self._today() - copy.day).days >= FRESH_DAYS:
                yield copy

    def delete(self, copy: Copy) -> None:
        self._objects.delete_object(copy.name)

    def _copies(self, sha256: str) -> list[Copy]:
        if not _SHA256.fullmatch(sha256):  # it becomes part of a path
            raise InputMissing
        names = self._objects.list_objects(_folder(sha256))
        return sorted(filter(None, map(_copy, names)), reverse=True)

    def _read(self, copies: list[Copy]) -> bytes:
        for copy in copies:
            if (png := self._objects.get_object(copy.name)) is not None:
                return png
        raise InputMissing


def _folder(sha256: str) -> str:
    return f"inputs/{sha256}/"


def _hashed(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


def _copy(name: str) -> Copy | None:
    match = _NAME.fullmatch(name)
    try:
        return match and Copy(match["sha256"], date.fromisoformat(match["day"]), match["owner"])
    except ValueError:
        return None
