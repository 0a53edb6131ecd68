"""What happens to a job, as it happens: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from json import dumps
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from api import sse
from api.auth import CallerKey
from api.errors import Problem, responses
from api.farm import Farm, farm_of
from api.negotiation import preferred
from api.routes import get
from api.shown import seen
from api.signed import Expiry, Signature, opener
from shared.errors import JobNotFound, StoreUnavailable
from shared.events import PING, POSITION, Event, Passing, event_of
from shared.jobs import Job
from shared.links import events_path
from shared.views import image_view

router = APIRouter(tags=["jobs"])
RETRY = b"retry: 2000\n\n"  # ms until a client that was cut off comes back


@get(
    router,
    "/jobs/{job_id}/events",
    summary="Follow a job",
    responses={
        200: {
            "description": "Events until the job is final; `: ping` each 15 s",
            "content": {sse.MEDIA_TYPE: {"schema": sse.SCHEMA}},
        },
        204: {"description": "The job is final and the client has its last event: do not come back"},
        **responses(
            "missing_api_key", "invalid_api_key", "url_expired", "job_not_found", "job_gone",
            "not_acceptable", "store_unavailable",
        ),
    },
)  # fmt: skip
async def events(
    request: Request,
    key: CallerKey,
    job_id: str,
    after: Annotated[str | None, Query(description="As `Last-Event-ID`, which wins")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
    exp: Expiry = None,
    sig: Signature = None,
) -> Response:
    farm = farm_of(request)
    if preferred(request.headers.get("accept", ""), [sse.MEDIA_TYPE]) is None:
        raise Problem(406, "not_acceptable", f"this can only be {sse.MEDIA_TYPE}")
    follower = _Follower(request, farm, job_id, last_event_id or after)

    def begin() -> list[bytes] | None:
        owner = opener(request, farm, key, events_path(job_id), exp, sig)
        return follower.begin(farm.find(request, job_id, owner))

    opening = await to_thread.run_sync(begin)
    if opening is None:
        return Response(status_code=204)
    if request.method == "HEAD":
        return Response(status_code=200, headers=sse.HEADERS)
    request.state.waited = True
    return sse.EventStream(follower.parts(opening))


@dataclass(slots=True)
class _Follower:
    """One client and its stream; `after` is the id of the last event that it has."""

    request: Request
    farm: Farm
    job_id: str
    after: str | None
    done: bool = False
    job: Job | None = None  # as it was seen last

    def begin(self, job: Job) -> list[bytes] | None:
        """What the stream opens with; None: this client has everything. Raises StoreUnavailable."""
        later = self.farm.store.events(job.id, self.after) if self.after else None
        if later is None:
            self.after, self.done = job.last_event, job.done
            return [RETRY, self._snapshot(job)]
        return None if job.done and not later else [RETRY]

    async def parts(self, opening: list[bytes]) -> AsyncGenerator[bytes, None]:
        while opening:
            yield opening.pop(0)
        if self.done:
            return
        async with aclosing(self.farm.watch.follow(self.job_id, self.after)) as news:
            async for said in news:
                try:
                    yield await self._part(said)
                except (StoreUnavailable, JobNotFound):
                    return  # the client comes back for this event, or to hear that there is no job

    async def _part(self, said: Event | Passing) -> bytes:
        """Raises StoreUnavailable, JobNotFound."""
        if said.type == PING:
            return sse.PING
        if isinstance(said, Event):
            return await self.farm.watch.read(partial(self._told, said))
        if said.type == POSITION:
            return await self.farm.watch.read(self._place)
        return sse.message(said.type, dumps(said.data))

    def _place(self) -> bytes:
        """Where in the queue the job is now. Raises StoreUnavailable, JobNotFound."""
        view = seen(self.request, self.farm, self.farm.store.get(self.job_id))
        place = {"position": view.queue_position, "eta_s": view.eta_s}
        return sse.message(POSITION, dumps(place))

    def _told(self, event: Event) -> bytes:
        """The event with the job, or its image, as it is now. Raises StoreUnavailable, JobNotFound."""
        job = self._job_since(event)
        if event.index is None:
            data = seen(self.request, self.farm, job).model_dump_json()
        else:
            image, links = job.images[event.index], self.farm.links(self.request)
            data = image_view(job, image, links).model_dump_json()
        return sse.message(event.type, data, event.id)

    def _job_since(self, event: Event) -> Job:
        known = event_of(self.job.last_event) if self.job else None
        if self.job is None or known is None or known.number < event.number:
            self.job = self.farm.store.get(self.job_id)
        return self.job

    def _snapshot(self, job: Job) -> bytes:
        view = seen(self.request, self.farm, job)
        return sse.message("job.snapshot", view.model_dump_json(), job.last_event)
