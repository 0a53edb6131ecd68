"""OpenAI's event streams: previews as they come, each picture as it is done, a late fault as an event."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from api import sse
from api.dialects.openai_answers import completed, partial
from api.drain import leaving
from api.errors import problem_body, problem_of
from api.farm import Farm
from api.holding import Held, holding, outcome_of
from api.pictures import drawn
from shared.events import PING, PREVIEW, Passing
from shared.jobs import Job, JobImage, RenderState


def stream(
    request: Request, farm: Farm, wait: Held, quality: str, kind: str, headers: dict[str, str]
) -> sse.EventStream:
    """`kind` is "generation" or "edit". It ends with the job; it has no budget."""
    answer = sse.EventStream(_told(request, farm, wait, quality, kind))
    answer.headers.update({**headers, **wait.headers})
    return answer


async def _told(
    request: Request, farm: Farm, wait: Held, quality: str, kind: str
) -> AsyncGenerator[bytes, None]:
    try:
        async with holding(farm, wait), aclosing(_events(farm, wait.job, quality, kind)) as events:
            async for event in events:
                yield event
    except Exception as error:
        fault = problem_body(request, problem_of(error))["error"]
        yield _event({"type": "error", "error": fault})


async def _events(farm: Farm, job: Job, quality: str, kind: str) -> AsyncGenerator[bytes, None]:
    """Raises Problem for a job that did not succeed."""
    sent: set[int] = set()
    async with aclosing(farm.watch.follow(job.id, to_the_last=True)) as news:
        async for said in news:
            if isinstance(said, Passing):
                if part := _passing(job, quality, kind, said):
                    yield part
                continue
            job = await run_in_threadpool(farm.store.get, job.id)
            for image in _ready(job, sent):
                data = await run_in_threadpool(drawn, farm, job, image)
                yield _event(completed(job, quality, kind, image, data))
            if job.done:
                break
    if not job.done:  # the story broke off: this process leaves
        raise leaving()
    if problem := outcome_of(job):
        raise problem


def _passing(job: Job, quality: str, kind: str, said: Passing) -> bytes | None:
    if said.type == PING:
        return sse.PING
    if said.type != PREVIEW:
        return None
    number, data = said.data["partial_image_index"], said.data["b64_json"]
    return _event(partial(job, quality, kind, number, data))


def _ready(job: Job, sent: set[int]) -> list[JobImage]:
    """Pictures that were not told of yet."""
    fresh = [i for i in job.images if i.status is RenderState.succeeded and i.index not in sent]
    sent.update(image.index for image in fresh)
    return fresh


def _event(data: dict[str, Any]) -> bytes:
    return sse.message(data["type"], json.dumps(data))
