"""The bytes of one finished image as a response: converted, in part, or not at all."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from api.errors import Problem
from api.farm import Farm
from api.negotiation import Unsatisfiable, byte_range, unchanged
from shared import images
from shared.errors import ResultGone
from shared.images import Format
from shared.jobs import Job, JobImage, StoredResult
from shared.links import CONTENT_TYPES, EXTENSIONS


def picture(
    request: Request,
    farm: Farm,
    job: Job,
    image: JobImage,
    stored: StoredResult,
    kind: Format,
    headers: dict[str, str],
) -> Response:
    """200, 206 or 304. The PNG master streams; WebP and JPEG are made from it in memory.

    Raises Problem 410 and 416, ResultsUnavailable.
    """
    headers |= {**described(job, image, stored, kind), "Accept-Ranges": "bytes"}
    if unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if kind == "png":
        return _master(request, farm, image, stored, headers)
    data = images.convert(whole(farm, image, stored), kind, job.input["output_compression"])
    span, status = _span(request, len(data), headers)
    return Response(data[slice(*span)], status, headers, CONTENT_TYPES[kind])


def described(job: Job, image: JobImage, stored: StoredResult, kind: Format) -> dict[str, str]:
    """The headers of a picture, in whatever way it is sent."""
    seed, etag = image.render.spec.seed, stored.sha256
    if kind != "png":
        etag += f"-{kind}-{job.input['output_compression']}"
    name = f"{job.id}-{image.index}-{seed}.{EXTENSIONS[kind]}"
    return {
        "ETag": f'"{etag}"',
        "Seed": str(seed),
        "Content-Disposition": f'inline; filename="{name}"',
    }


def drawn(farm: Farm, job: Job, image: JobImage, kind: Format | None = None) -> bytes:
    """A picture that is there, as `kind`, else as it was ordered.

    Raises Problem 410, ResultsUnavailable.
    """
    if image.render.result is None:
        raise Problem(410, "result_gone", "the picture is no longer stored")
    png = whole(farm, image, image.render.result)
    compression = job.input["output_compression"]
    return images.convert(png, kind or job.input["output_format"], compression)


def whole(farm: Farm, image: JobImage, stored: StoredResult) -> bytes:
    """The PNG master. Raises Problem 410, ResultsUnavailable."""
    return b"".join(_read(farm, image, stored, 0, stored.size_bytes))


def look_for(farm: Farm, image: JobImage, stored: StoredResult) -> None:
    """Nothing, if the picture is there. Raises ResultGone, ResultsUnavailable."""
    for _ in _read(farm, image, stored, 0, 1):
        break


def _master(
    request: Request, farm: Farm, image: JobImage, stored: StoredResult, headers: dict[str, str]
) -> Response:
    (start, end), status = _span(request, stored.size_bytes, headers)
    pieces = _read(farm, image, stored, start, end)
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        pieces = ()
    return StreamingResponse(pieces, status, headers, stored.content_type)


def _span(request: Request, size: int, headers: dict[str, str]) -> tuple[tuple[int, int], int]:
    """Which bytes to send, under which status. Raises Problem 416."""
    if request.method == "HEAD":  # `Range` has a meaning for GET only (RFC 9110, 14.2)
        return (0, size), 200
    try:
        part = byte_range(request.headers, size, headers["ETag"])
    except Unsatisfiable:
        outside = {"Content-Range": f"bytes */{size}"}
        raise Problem(416, "invalid_range", f"it has {size} bytes", headers=outside) from None
    if part is None:
        return (0, size), 200
    headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{size}"
    return part, 206


def _read(
    farm: Farm, image: JobImage, stored: StoredResult, start: int, end: int
) -> Iterable[bytes]:
    try:
        return farm.results.read(stored, start, end)
    except ResultGone:
        # The record outlived the picture: the next order of it must render again.
        farm.store.forget(image.render.fingerprint, image.render.id)
        raise
