"""A request that waits for its job: `Prefer: wait=N` (RFC 7240), until it is done or the client left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import Header, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.farm import Farm
from shared.errors import StoreUnavailable
from shared.jobs import Job

T = TypeVar("T")
Prefer = Annotated[
    str | None,
    Header(description="`wait=N`: answer when the job is done, or after N seconds"),
]
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?')


async def answer(
    request: Request, farm: Farm, find: Callable[[], Job], show: Callable[[Job], Response]
) -> Response:
    """What `show` makes of the job that `find` finds, when the client wants it.

    Both are called in a thread. Raises what they raise, and ClientDisconnect.
    """
    wait_s = wished_s(request, farm.settings.max_wait_s)
    if wait_s is None:
        response = await to_thread.run_sync(lambda: show(find()))
    else:
        job = await to_thread.run_sync(find)
        if not job.done and wait_s > 0:
            job = await _waited(request, farm, job, wait_s)
        response = await to_thread.run_sync(show, job)
    if applied := _applied(request, wait_s):
        response.headers["Preference-Applied"] = applied
    return response


async def _waited(request: Request, farm: Farm, job: Job, limit_s: float) -> Job:
    request.state.waited = True
    try:
        return await while_there(request.receive, farm.watch.wait_done(job.id, limit_s))
    except StoreUnavailable:
        if request.method == "POST":  # the order stands: its client must learn the id
            return job
        raise


def wished_s(request: Request, most_s: int) -> int | None:
    """How long the client would wait; None: it did not say, or nothing that can be read."""
    for wish in _wishes(request):
        if match := _WAIT.fullmatch(wish):
            return min(int(match[1]), most_s)
    return None


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is given up when the client leaves. Raises ClientDisconnect then."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _wishes(request: Request) -> list[str]:
    said = ",".join(request.headers.getlist("prefer"))
    return [wish.partition(";")[0].strip().lower() for wish in said.split(",")]


def _applied(request: Request, wait_s: int | None) -> str | None:
    if wait_s is not None:
        return f"wait={wait_s}"
    return "respond-async" if "respond-async" in _wishes(request) else None
