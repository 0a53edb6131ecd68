"""Absolute URLs of a job and its pictures, in the spelling of the client that they are for."""

from __future__ import annotations

from dataclasses import dataclass

from shared.images import Format
from shared.signing import Signer

EXTENSIONS: dict[Format, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}
CONTENT_TYPES: dict[Format, str] = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}


@dataclass(slots=True, frozen=True)
class Links:
    base: str  # scheme, host and spelling, without a slash at the end
    signer: Signer

    def job(self, job_id: str) -> str:
        return f"{self.base}/jobs/{job_id}"

    def file(self, job_id: str, index: int, output_format: Format) -> str:
        """A signed URL. Raises StoreUnavailable."""
        path = file_path(job_id, index, EXTENSIONS[output_format])
        return f"{self.base}{path}?{self.signer.query(path)}"

    def events(self, job_id: str) -> str:
        """A signed URL, since an EventSource cannot send a key. Raises StoreUnavailable."""
        path = events_path(job_id)
        return f"{self.base}{path}?{self.signer.query(path)}"


def events_path(job_id: str) -> str:
    return f"/jobs/{job_id}/events"


def file_path(job_id: str, index: int, extension: str) -> str:
    """What is signed: the path in its first spelling."""
    return f"/files/{job_id}/{index}.{extension}"
