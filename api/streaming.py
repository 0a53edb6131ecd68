"""OpenAI's event streams: previews as they come, each picture as it is done, a late fault as an event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from api.dialects.openai_answers import completed, partial
from api.errors import problem_body, problem_of
from api.farm import Farm
from api.holding import Held, holding, outcome_of
from api.pictures import drawn
from shared.events import PREVIEW, Passing
from shared.jobs import Job, JobImage, RenderState

T = TypeVar("T")
PING_S = 15.0
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def stream(
    request: Request, farm: Farm, wait: Held, quality: str, kind: str, headers: dict[str, str]
) -> StreamingResponse:
    """`kind` is "generation" or "edit". It ends with the job; it has no budget."""
    told = _told(request, farm, wait, quality, kind)
    return StreamingResponse(
        told, headers={**headers, **wait.headers, **_HEADERS}, media_type="text/event-stream"
    )


async def _told(
    request: Request, farm: Farm, wait: Held, quality: str, kind: str
) -> AsyncIterator[bytes]:
    try:
        async with holding(farm, wait):
            async for event in _events(farm, wait.job, quality, kind):
                yield event
    except Exception as error:
        fault = problem_body(request, problem_of(error))["error"]
        yield _event({"type": "error", "error": fault})


async def _events(farm: Farm, job: Job, quality: str, kind: str) -> AsyncIterator[bytes]:
    """Raises Problem for a job that did not succeed."""
    sent: set[int] = set()
    async for news in pinged(farm.watch.follow(job.id, None), PING_S):
        if news is None:
            yield b": ping\n\n"
        elif isinstance(news, Passing):
            if news.type == PREVIEW:
                number, data = news.data["partial_image_index"], news.data["b64_json"]
                yield _event(partial(job, quality, kind, number, data))
        else:
            job = await run_in_threadpool(farm.store.get, job.id)
            for image in _ready(job, sent):
                data = await run_in_threadpool(drawn, farm, job, image)
                yield _event(completed(job, quality, kind, image, data))
            if job.done:
                break
    if problem := outcome_of(job):
        raise problem


def _ready(job: Job, sent: set[int]) -> list[JobImage]:
    """Pictures that were not told of yet."""
    fresh = [i for i in job.images if i.status is RenderState.succeeded and i.index not in sent]
    sent.update(image.index for image in fresh)
    return fresh


async def pinged(source: AsyncIterator[T], every_s: float) -> AsyncIterator[T | None]:
    """What `source` gives; None whenever it gave nothing for `every_s`."""
    following = asyncio.ensure_future(anext(source, _END))
    try:
        while True:
            if not (await asyncio.wait({following}, timeout=every_s))[0]:
                yield None
                continue
            item = following.result()
            if item is _END:
                return
            yield item
            following = asyncio.ensure_future(anext(source, _END))
    finally:
        following.cancel()


_END: Any = object()


def _event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()
