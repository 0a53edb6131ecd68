"""OpenAI's Images API: its answers and its events. No value is ever null: keys are left out."""

from __future__ import annotations

import base64
import math
from typing import Any

from shared.jobs import Job, JobImage

TOKEN_SIDE_PX = 16
_STREAMED = {"generation": "image_generation", "edit": "image_edit"}


def answer(job: Job, items: list[dict[str, Any]], quality: str) -> dict[str, Any]:
    """The body of a 200; `items` from `item`, in the order of the images."""
    return {
        "created": int(job.created_at),
        "data": items,
        **about(job, quality),
        "usage": usage(job, len(items)),
    }


def item(job: Job, image: JobImage, *, url: str | None = None, data: bytes = b"") -> dict[str, Any]:
    """One picture: by its URL, else as base64. Never both."""
    picture = {"url": url} if url else {"b64_json": text(data)}
    prompt = {"revised_prompt": job.input["prompt"]} if job.input["prompt"] else {}
    return {**picture, **prompt, "seed": image.render.spec.seed}


def about(job: Job, quality: str) -> dict[str, str]:
    return {
        "background": "opaque",
        "output_format": job.input["output_format"],
        "quality": quality,
        "size": f"{job.input['width']}x{job.input['height']}",
    }


def usage(job: Job, n: int) -> dict[str, Any]:
    """What `n` images of the job would cost where tokens are sold: 4 bytes of text, 16x16 px."""
    words = math.ceil(len(job.input["prompt"].encode()) / 4)
    shown = sum(_tokens(job.input[name]) for name in ("init_image", "mask_image"))
    made = n * (job.input["width"] // TOKEN_SIDE_PX) * (job.input["height"] // TOKEN_SIDE_PX)
    return {
        "input_tokens": words + shown,
        "output_tokens": made,
        "total_tokens": words + shown + made,
        "input_tokens_details": {"text_tokens": words, "image_tokens": shown},
    }


def _tokens(picture: dict[str, Any] | None) -> int:
    if not picture:
        return 0
    sides = (math.ceil(picture[name] / TOKEN_SIDE_PX) for name in ("width", "height"))
    return math.prod(sides)


def partial(job: Job, quality: str, kind: str, index: int, data: str) -> dict[str, Any]:
    """`data` is base64; a preview has a format of its own, so the picture's is not promised."""
    return {
        "type": f"{_STREAMED[kind]}.partial_image",
        "b64_json": data,
        "partial_image_index": index,
        "created_at": int(job.created_at),
        **about(job, quality),
        "output_format": "jpeg" if data.startswith("/9j/") else "png",
    }


def completed(job: Job, quality: str, kind: str, image: JobImage, data: bytes) -> dict[str, Any]:
    return {
        "type": f"{_STREAMED[kind]}.completed",
        "b64_json": text(data),
        "created_at": int(job.created_at),
        **about(job, quality),
        "seed": image.render.spec.seed,
        "usage": usage(job, 1),
    }


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()
