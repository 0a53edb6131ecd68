"""Absolute URLs, as the client that asks would write them."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from api.signing import Signer
from shared.images import Format
from shared.settings import Settings

EXTENSIONS: dict[Format, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}


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


def links(request: Request, settings: Settings, signer: Signer) -> Links:
    spelling = "/v1" if request.url.path.startswith("/v1/") else ""
    return Links(origin(request, settings) + spelling, signer)


def origin(request: Request, settings: Settings) -> str:
    """`public_url`, else what a trusted proxy was asked, else `Host`."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    scheme, host = request.url.scheme, request.headers.get("host") or request.url.netloc
    if settings.trust_proxy:
        scheme = _first(request, "x-forwarded-proto") or scheme
        host = _first(request, "x-forwarded-host") or host
    return f"{scheme}://{host}"


def _first(request: Request, header: str) -> str:
    """The value that the outermost proxy set."""
    return request.headers.get(header, "").partition(",")[0].strip()
