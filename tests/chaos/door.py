"""The APIs of a farm as its clients see them: any of them may be gone when it is asked."""

from __future__ import annotations

import itertools
import secrets
from contextlib import suppress
from typing import Any

import httpx2

from tests.waiting import wait_until

OWNERS = ("alice", "bob", "carol", "dave")


def key_of(owner: str) -> str:
    return f"key-of-{owner}"


class Door:
    """Speaks to the APIs on these loopback ports. Thread-safe."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._http = httpx2.Client(timeout=30, limits=httpx2.Limits(max_keepalive_connections=20))

    def close(self) -> None:
        self._http.close()

    def answers(self, api: int) -> bool:
        with suppress(httpx2.TransportError):
            return self._http.get(self._url(api) + "/healthz", timeout=1).status_code == 200
        return False

    def call(
        self, method: str, path: str, *, api: int = 0, owner: str = OWNERS[0], **options: Any
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key_of(owner)}", **options.pop("headers", {})}
        return self._http.request(method, self._url(api) + path, headers=headers, **options)

    def insist(self, method: str, path: str, owner: str = OWNERS[0], **options: Any) -> Any:
        """The answer as soon as there is one below 500; asked of one API after the other."""
        answers: list[httpx2.Response] = []
        apis = itertools.cycle(range(len(self.ports)))

        def answered() -> bool:
            with suppress(httpx2.TransportError):
                answers[:] = [self.call(method, path, api=next(apis), owner=owner, **options)]
                return answers[0].status_code < 500
            return False

        wait_until(answered, 30.0, f"for an answer to {method} {path}")
        assert answers[0].status_code in (200, 202), answers[0].text
        return answers[0].json()

    def submit(self, *, owner: str = OWNERS[0], **order: Any) -> dict[str, Any]:
        """A job that is taken at once, or as soon as the API is back."""
        body = {"prompt": "a lighthouse", **order}
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        return dict(self.insist("POST", "/jobs", owner, json=body, headers=headers))

    def job(self, job_id: str, owner: str = OWNERS[0]) -> dict[str, Any]:
        """The job as the API tells it, as soon as it tells."""
        return dict(self.insist("GET", f"/jobs/{job_id}", owner))

    def finished(
        self, job_id: str, owner: str = OWNERS[0], limit_s: float = 60.0
    ) -> dict[str, Any]:
        wait_until(lambda: self.job(job_id, owner)["done"], limit_s, f"for {job_id}")
        return self.job(job_id, owner)

    def _url(self, api: int) -> str:
        return f"http://127.0.0.1:{self.ports[api]}"
