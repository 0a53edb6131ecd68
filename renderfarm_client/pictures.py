"""Pictures as files: named after job, index and seed, and never half written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from renderfarm_client.records import Image, Job

SUFFIX = {"png": "png", "webp": "webp", "jpeg": "jpg"}


def name(job: Job, image: Image) -> str:
    """`<job>-<index>-<seed>.<ext>`."""
    suffix = SUFFIX.get(str(job.input.get("output_format", "png")), "png")
    return f"{job.id}-{image.index}-{image.seed}.{suffix}"


def write(path: Path, picture: bytes) -> None:
    """The whole file or none of it. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(picture)
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()
