"""`Client`: everything a key may do at one farm, as methods."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from renderfarm_client import pictures, stream
from renderfarm_client.errors import JobEnded, Refused, StillRunning
from renderfarm_client.farm import FarmCalls
from renderfarm_client.records import Estimate, Event, Image, Job, JobPage
from renderfarm_client.webhooks import WebhookCalls
from renderfarm_client.wire import Wire, part, read, retry_after_s

Format = Literal["png", "webp", "jpeg"]
LONG_POLL_S = 50  # what the farm holds a request at most
LOCAL_POLL_S, LONGEST_POLL_S = 0.2, 10.0
PAGE = 100


class Client(FarmCalls, WebhookCalls):
    """One farm at `url`, for the owner of `key`. Threads may share it.

    Every method raises `Refused` or `Unreachable`. `timeout_s` bounds each request;
    for `patience_s` a request is sent again through connection errors and answers that say
    *later*. That never makes a second job: each order carries an Idempotency-Key.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout_s: float = 30.0,
        patience_s: float = 30.0,
    ) -> None:
        self._wire = Wire(url, key, timeout_s, patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._wire.http.close()

    @property
    def url(self) -> str:
        return self._wire.url

    @property
    def patience_s(self) -> float:
        return self._wire.patience_s

    @patience_s.setter
    def patience_s(self, seconds: float) -> None:
        self._wire.patience_s = seconds

    # ---------------------------------------------------------------------------- ordering

    def submit(
        self,
        order: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Order a job: `submit(prompt="a fox", n=2)`, or `submit({"prompt": "a fox"})`.

        Images may be bytes or a `Path`. Give your own key where the program itself may be started
        again: the same key and order are the same job, for a day.
        """
        return self._order("/jobs", idempotency_key, json=_order(order, fields))

    def dry_run(self, order: Mapping[str, Any] | None = None, **fields: Any) -> Estimate:
        """What `submit` would cost; nothing is kept."""
        body = _order(order, fields)
        return read(
            Estimate, self._wire.send("POST", "/jobs", params={"dry_run": "true"}, json=body)
        )

    def retry(self, job: Job | str, *, idempotency_key: str | None = None) -> Job:
        """Order again what failed, expired or was canceled; the new job."""
        return self._order(f"{_path(job)}/retry", idempotency_key)

    def verify(self, job: Job | str, index: int = 0, *, idempotency_key: str | None = None) -> Job:
        """Render one image again and compare; the new job, whose image has `verify`."""
        return self._order(f"{_path(job)}/verify", idempotency_key, json={"index": index})

    def cancel(self, job: Job | str) -> Job:
        """Stop what has not finished: what waits at once, what runs at its next step."""
        return self._job(self._wire.send("POST", f"{_path(job)}/cancel"))

    def delete(self, job: Job | str, *, purge: bool = False) -> None:
        """Forget a finished job; `purge`: its pictures too, where no other job refers to them.

        That it is gone already is no error: an earlier try may have done it.
        """
        try:
            params = {"purge": "true"} if purge else {}
            self._wire.send("DELETE", _path(job), params=params)
        except Refused as error:
            if error.status not in (404, 410):
                raise

    # ---------------------------------------------------------------------------- looking

    def get(self, job: Job | str) -> Job:
        """The job as it is now."""
        return self._look(job, hold_s=0)

    def wait(self, job: Job | str, timeout_s: float | None = None) -> Job:
        """The job when it is done, whatever became of it. Raises StillRunning.

        The farm holds each request until then, up to 50 s; no polling.
        """
        give_up_at = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        seen = self.get(job)
        while not seen.done:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise StillRunning(seen)
            seen = self._held(seen, min(left_s, LONG_POLL_S))
        return seen

    def follow(self, job: Job, timeout_s: float | None = None) -> Iterator[Job]:
        """The job as given and then as it is now, again and again, the last time when it is done.

        Looks as often as the farm asks for, on this machine 5 times a second. Raises StillRunning.
        """
        give_up_at = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        yield job
        while not job.done:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise StillRunning(job)
            time.sleep(min(job.poll_s, left_s))
            job = self.get(job)
            yield job

    def events(self, job: Job | str, after: str | None = None) -> Iterator[Event]:
        """What happens to the job, as it happens, until it is done.

        A broken stream is taken up where it ended: no stored event is missed or repeated.
        `after` is the id of the last event that an earlier run saw.
        """
        return stream.events(self._wire, _id(job), after)

    def list(
        self,
        *,
        status: str | None = None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        order: Literal["desc", "asc"] = "desc",
        owner: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Your jobs, the newest first, page after page as they are asked for; `limit` in all.

        Times are RFC 3339. `owner` is for admins: a name, or `*`.
        """
        said = {
            "status": status, "model": model, "created_after": created_after,
            "created_before": created_before, "order": order, "owner": owner,
        }  # fmt: skip
        said |= {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        params: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        while limit is None or limit > 0:
            params["limit"] = PAGE if limit is None else min(limit, PAGE)
            page = read(JobPage, self._wire.send("GET", "/jobs", params=params))
            yield from page.data
            limit = None if limit is None else limit - len(page.data)
            if not page.has_more or page.last_id is None:
                return
            params["after"] = page.last_id

    # ---------------------------------------------------------------------------- pictures

    def result(self, job: Job | str, index: int = 0, format: Format = "png") -> bytes:
        """The bytes of one picture, made into `format`. Raises StillRunning."""
        headers = {"Accept": f"image/{format}"}
        path = f"{_path(job)}/result"
        answer = self._wire.send("GET", path, params={"index": index}, headers=headers)
        if answer.status_code == 202:
            raise StillRunning(self._job(answer))
        return answer.content

    def picture(self, image: Image) -> bytes:
        """The bytes under an image's signed URL, in the order's format; the key stays at home."""
        if image.url is None:
            raise Refused(f"image {image.index} is {image.status}: it has no picture")
        return self._wire.send("GET", image.url, auth=None, follow_redirects=True).content

    def save(self, job: Job, folder: str | Path) -> tuple[Path, ...]:
        """Write each finished picture to `folder/<job>-<index>-<seed>.<ext>`; the paths.

        A file is whole or not there. Raises OSError.
        """
        done = [image for image in job.images if image.status == "succeeded"]
        paths = tuple(Path(folder) / pictures.name(job, image) for image in done)
        for path, image in zip(paths, done, strict=True):
            pictures.write(path, self.picture(image))
        return paths

    def render(
        self,
        order: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Submit and wait. Raises StillRunning, and JobEnded where an image did not succeed."""
        job = self.wait(self.submit(order, idempotency_key=idempotency_key, **fields), timeout_s)
        if job.status != "succeeded":
            raise JobEnded(job)
        return job

    # ---------------------------------------------------------------------------- within

    def _order(self, path: str, idempotency_key: str | None, **request: Any) -> Job:
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._job(self._wire.send("POST", path, headers=headers, **request))

    def _held(self, job: Job, left_s: float) -> Job:
        """The next look: held by the farm where it can, after a pause where it cannot."""
        if left_s >= 1:
            held = self._look(job, hold_s=int(left_s))
            if held.poll_s == 0 or held.done:
                return held
            job = held
        time.sleep(min(job.poll_s, left_s))
        return self.get(job)

    def _look(self, job: Job | str, hold_s: int) -> Job:
        request: dict[str, Any] = {}
        if hold_s:
            request["headers"] = {"Prefer": f"wait={hold_s}"}
            request["timeout"] = self._wire.timeout_s + hold_s
        return self._job(self._wire.send("GET", _path(job), **request))

    def _job(self, answer: httpx2.Response) -> Job:
        asked_s = retry_after_s(answer) or LOCAL_POLL_S
        poll_s = LOCAL_POLL_S if self._wire.local else min(asked_s, LONGEST_POLL_S)
        if answer.headers.get("preference-applied", "").startswith("wait="):
            poll_s = 0.0  # the farm has waited already
        return read(Job, answer).model_copy(update={"poll_s": poll_s})


def _id(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id


def _path(job: Job | str) -> str:
    return f"/jobs/{part(_id(job))}"


def _order(order: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """One JSON object; images that are bytes or a file become base64."""
    said = {**(order or {}), **fields}
    return {name: _sent(value) for name, value in said.items() if value is not None}


def _sent(value: Any) -> Any:
    if isinstance(value, Path):
        value = value.read_bytes()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
