"""The ResultStore port: pictures that stay, under the name of what decides their pixels.

    renders/<fingerprint>/<token>.png    the lossless master
    renders/<fingerprint>/<token>.json   what is known of it, written second: its presence says
                                         that the picture is complete
    inputs/<sha256>/<owner>.<day>.png    a picture to start from: see shared/results/inputs.py

`token` names the claim that made the picture and sorts by time, so a zombie's late upload lies
beside the published picture and never over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from shared.jobs import StoredResult


@dataclass(slots=True, frozen=True)
class Kept:
    """What lies under one token: a whole result, or what an upload left half way."""

    fingerprint: str
    token: str
    complete: bool  # the picture and its record are there; neither was read
    size_bytes: int  # of both
    changed_at: float  # unix seconds by the storage's clock


class ResultStore(Protocol):
    """Thread-safe. Every method raises ResultsUnavailable when the storage does not answer."""

    def put(self, result: StoredResult, png: bytes, details: dict[str, Any]) -> None:
        """Keep the picture, then its record with `details` (settings, versions) beside it.

        Idempotent: the same token may be put again after a failure half way.
        """

    def find(self, fingerprint: str) -> StoredResult | None:
        """The oldest complete, exact result of this fingerprint; None when there is none.

        An unreadable or foreign record is passed over.
        """

    def read(self, result: StoredResult, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The picture's bytes [start, end) in pieces. Raises ResultGone, before the first piece."""

    def delete(self, result: StoredResult | Kept) -> None:
        """Take the record away, then the picture; nothing happens if they are gone already."""

    def walk(self) -> Iterator[Kept]:
        """Everything stored, fingerprint by fingerprint, each one's tokens oldest first.

        What comes or goes meanwhile may be missed. O(objects), in pages.
        """

    def check(self) -> None:
        """Return if the storage can be read and written now."""

    # Small whole objects beside the results, by their names.
    def put_object(self, name: str, data: bytes, content_type: str) -> None:
        """Whole or not at all; what lay under this name is replaced."""

    def get_object(self, name: str) -> bytes | None:
        """None when nothing lies there."""

    def list_objects(self, folder: str) -> Iterator[str]:
        """The names of all objects under a folder's name, which ends with a slash, in order."""

    def delete_object(self, name: str) -> None:
        """Nothing happens if it is gone already."""
