"""Routes that answer with the picture itself: submit, then wait, holding no thread.

The client holds its job while it waits; what it holds is in the store, so that queued images are
canceled even if this process dies with its connections. Running ones finish and are kept.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from anyio import CancelScope
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from ulid import ULID

from api.auth import Owner
from api.codes import CODES
from api.door import admit
from api.drain import leaving
from api.errors import Problem, problem_of, respond
from api.farm import Farm
from api.inputs import receive
from api.prefer import while_there
from api.readiness import reason
from api.reading import digest, key_of
from api.routes.models import ready_workers
from api.schemas import NewJob
from api.submitting import take
from shared.errors import NotStored, Unavailable
from shared.jobs import Job, JobStatus, RenderState
from shared.models import ModelEntry
from shared.settings import Settings
from shared.store.values import Attendance, Submission, WorkerStatus

NOT_READY_S = 10  # when to ask again
_NO_RETRY = {"x-should-retry": "false"}  # it would only cost a second render
_SPACE = b" "  # JSON may begin with any number of them


@dataclass(slots=True, frozen=True)
class Held:
    """A job that `client` waits for; `headers` are those of the answer."""

    job: Job
    client: str
    headers: dict[str, str]


def ordered(request: Request, farm: Farm, owner: Owner, order: NewJob) -> Submission:
    """The order of a client that waits, its pictures stored. Call it in a thread.

    Clients made from OpenAI's SDKs say how often they asked before: then the answer may be a job
    that is there already. Raises Problem 400 for a bad Idempotency-Key, and as `receive` does.
    """
    entry = farm.catalog.find(order.model) if order.model else farm.catalog.default
    order, given = receive(farm, owner, order)
    body, key = digest(order), request.headers.get("idempotency-key")
    replay = None if key is None else (key_of(key), body)
    count = request.headers.get("x-stainless-retry-count", "0")
    repeats = count.isascii() and count.isdigit() and int(count[:9]) > 0
    by = Attendance(str(ULID()), farm.settings.client_gone_s, body, repeats)
    now, base = time.time(), farm.links(request).base
    loras = farm.catalog.loras
    submission = admit(
        order, entry, owner, now=now, idempotency=replay, given=given, loras=loras, base=base
    )
    return replace(submission, attendance=by)


async def answered(
    request: Request,
    farm: Farm,
    owner: Owner,
    submission: Submission,
    build: Callable[[Job], Response],
    headers: Mapping[str, str],
    *,
    taken: Callable[[Held], None] | None = None,
    json: bool = True,
) -> Response:
    """What `build` makes of the job once it has succeeded, with these headers.

    `taken` hears of the job before; both are called in a thread. `json`: spaces may be sent before
    the answer. Raises Problem, and everything that `take` raises.
    """
    wait = await submitted(request, farm, owner, submission)
    wait.headers.update(headers)
    if taken:
        await run_in_threadpool(taken, wait)
    waiting = asyncio.ensure_future(_answer(request, farm, wait, build))
    waiting.add_done_callback(lambda task: task.cancelled() or task.exception())  # heard, if late
    beat_s = farm.settings.sync_heartbeat_s if json else 0.0
    try:
        if beat_s and not (await asyncio.wait({waiting}, timeout=beat_s))[0]:
            beats = _beating(request, waiting, beat_s)
            return StreamingResponse(beats, media_type="application/json", headers=wait.headers)
        return await waiting
    except BaseException:
        waiting.cancel()
        raise


async def submitted(request: Request, farm: Farm, owner: Owner, submission: Submission) -> Held:
    """Raises Problem, `model_not_ready` where nobody could draw it, and all that `take` raises."""
    return await run_in_threadpool(_submit, request, farm, owner, submission)


@asynccontextmanager
async def holding(farm: Farm, wait: Held) -> AsyncIterator[None]:
    """While the block runs its client is there; if it ends by an exception the client has left."""
    saying = asyncio.ensure_future(_hold(farm, wait))
    try:
        yield
    except BaseException:
        await _leave(farm, wait)
        raise
    finally:
        saying.cancel()


async def _answer(
    request: Request, farm: Farm, wait: Held, build: Callable[[Job], Response]
) -> Response:
    async with holding(farm, wait):
        job = await _done(request, farm, wait)
        response = await run_in_threadpool(build, job)
    response.headers.update(wait.headers)
    return response


def _submit(request: Request, farm: Farm, owner: Owner, submission: Submission) -> Held:
    entry = farm.catalog.find(submission.job.input["model"])
    workers = farm.store.workers()
    ready = ready_workers(entry, workers) > 0
    try:
        order = replace(submission, stored_only=not ready)
        found, headers = take(request, farm, owner, order)
    except NotStored:
        raise _not_ready(entry, workers) from None
    if not ready and not found.job.done:  # an earlier order of this client
        raise _not_ready(entry, workers)
    by = submission.attendance
    return Held(found.job, by.client if by else "", headers)


def _not_ready(entry: ModelEntry, workers: Sequence[WorkerStatus]) -> Problem:
    why = reason([worker for worker in workers if worker.pool == entry.pool])
    detail = f"{entry.id} is not ready: {why}"
    return Problem(503, "model_not_ready", detail, headers={"Retry-After": str(NOT_READY_S)})


async def _hold(farm: Farm, wait: Held) -> None:
    """Say again and again that the client is here."""
    gone_s = farm.settings.client_gone_s
    while True:
        await asyncio.sleep(gone_s / 3)
        with suppress(Unavailable):
            await run_in_threadpool(farm.store.attend, wait.job.id, wait.client, gone_s)


async def _leave(farm: Farm, wait: Held) -> None:
    with CancelScope(shield=True), suppress(Unavailable):  # also where this very task is canceled
        gone_s = farm.settings.client_gone_s
        await run_in_threadpool(farm.store.depart, wait.job.id, wait.client, gone_s)


async def _done(request: Request, farm: Farm, wait: Held) -> Job:
    """The job once it has succeeded. Raises Problem 410, 500 and 504, and ClientDisconnect."""
    job = wait.job
    if not job.done:
        limit_s = budget_s(request, farm.settings)
        job = await while_there(
            request.receive, farm.watch.wait_done(job.id, limit_s, to_the_last=True)
        )
    if not job.done and farm.drain.begun:
        raise leaving()  # the job is held for a while, so asking again attaches to it
    if not job.done:
        job = await run_in_threadpool(farm.store.abandon, job.id, wait.client)
        if not job.done or job.status is JobStatus.canceled:
            raise _too_late(job)
    if problem := outcome_of(job):
        raise problem
    return job


def budget_s(request: Request, settings: Settings) -> float:
    """How long this client is kept waiting: less than it would wait itself, where it says so."""
    try:
        given = float(request.headers.get("x-stainless-read-timeout", ""))
    except ValueError:
        given = math.inf
    if not given > 0:
        given = math.inf
    return min(settings.sync_wait_s, max(given - 5, given / 2))


def _too_late(job: Job) -> Problem:
    detail = (
        f"the picture was not ready in time; what is running of {job.id} goes on, "
        f"see GET /jobs/{job.id}"
    )
    return Problem(504, "sync_timeout", detail, headers=dict(_NO_RETRY))


def outcome_of(job: Job) -> Problem | None:
    """Why a job that is done has no picture to answer with; None if it has them all."""
    match job.status:
        case JobStatus.succeeded:
            return None
        case JobStatus.failed:
            errors = (i.render.error for i in job.images if i.status is RenderState.failed)
            error = next(error for error in errors if error)
            kind = CODES.get(error.code)
            code = error.code if kind and 500 in kind.statuses else "internal_error"
            return Problem(500, code, error.message, headers=dict(_NO_RETRY))
        case JobStatus.expired:
            return Problem(410, "job_expired", "the job had not been started by its deadline")
    return Problem(410, "job_canceled", "the job was canceled")


async def _beating(
    request: Request, waiting: asyncio.Future[Response], beat_s: float
) -> AsyncIterator[bytes]:
    """A space each `beat_s`, then the body; the status has been sent, so a fault is a body too."""
    try:
        yield _SPACE
        while not (await asyncio.wait({waiting}, timeout=beat_s))[0]:
            yield _SPACE
        try:
            response = waiting.result()
        except ClientDisconnect:
            return
        except Exception as error:
            response = respond(request, problem_of(error))
        yield bytes(response.body)
    finally:
        waiting.cancel()
