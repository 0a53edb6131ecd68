"""What is fuzzed: the whole API on a real Redis, jobs in every state, a thread that draws."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.schemas import APIOperation, BaseSchema

from api.errors import Problem
from shared.settings import Settings
from shared.store import open_store
from tests.api_kit import LARGE, TINY, Farm, claim, finish, worker

KEY = "root-key"
ORDER = {"size": "64x64", "steps": 2}


class Ground:
    """The application, its schema, ids worth asking for, and how much its Redis remembers."""

    def __init__(self, redis_url: str) -> None:
        settings = Settings(
            redis_url=redis_url,
            durability="off",
            api_keys=f"root:{KEY}:admin",
            submits_per_min=0,
            max_queued=0,
            sync_wait_s=0.3,
            max_wait_s=1,
        )
        self.farm = Farm(settings, store=open_store(settings))
        self.headers = {"Authorization": f"Bearer {KEY}"}
        self._redis = redis.Redis.from_url(redis_url)
        self._seed_the_store()
        self.schema: BaseSchema = schemathesis.openapi.from_dict(
            _light(self.farm.app.openapi()), config=SchemathesisConfig()
        )
        self.schema.app = self.farm.app
        self._closing = threading.Event()
        self._painter = threading.Thread(target=self._paint, daemon=True)
        self._painter.start()

    def _seed_the_store(self) -> None:
        with self.farm.client(KEY) as client:

            def order(**fields: Any) -> str:
                answer = client.post("/jobs", json={"prompt": "a fox", **ORDER, **fields})
                return str(answer.json()["id"])

            self.jobs = [order(), order(n=2, output_format="webp")]
            for _ in range(3):
                self.farm.render()
            self.jobs.append(order())
            self.farm.fail()
            self.jobs.append(order())
            client.post(f"/jobs/{self.jobs[-1]}/cancel")
            self.done = list(self.jobs)
            self.jobs.append(order())
            self.farm.claim()
            self.jobs.append(order(n=10))

    def operations(self) -> Iterator[APIOperation[Any, Any, Any, Any]]:
        for found in self.schema.get_all_operations():
            yield found.ok()

    def remembered(self) -> int:
        """How many keys Redis holds."""
        return int(self._redis.dbsize())

    @contextmanager
    def planted(self, path: str, answer: Callable[[], object]) -> Iterator[None]:
        """Let a GET answer something else: does the fuzzer notice?"""
        routes = self.farm.app.router.routes
        self.farm.app.get(path)(answer)
        routes.insert(0, routes.pop())
        try:
            yield
        finally:
            del routes[0]
            for key in self._redis.keys("left:*"):
                self._redis.delete(key)

    def leave_a_key(self) -> None:
        """What a careless refusal does."""
        self._redis.set(f"left:{time.monotonic_ns()}", "behind")
        raise Problem(404, "model_not_found", "but something stays")

    def _paint(self) -> None:
        """Play a worker of both models, so that who waits is answered."""
        store, results = self.farm.store, self.farm.results
        for model in (TINY, LARGE):
            one = worker("ready", model).model_copy(update={"name": model.id})
            store.heartbeat(one, 3600.0)
        while not self._closing.wait(0.01):
            for model in (TINY, LARGE):
                while claimed := claim(store, model.pool):
                    with suppress(AssertionError):  # canceled meanwhile
                        finish(store, results, claimed)

    def close(self) -> None:
        self._closing.set()
        self._painter.join(10)
        self._redis.close()


def _light(document: Any) -> Any:
    """Without the pattern of long texts: to generate from it takes minutes."""
    if isinstance(document, dict):
        long = document.get("maxLength", 0) > 1000
        return {k: _light(v) for k, v in document.items() if not (long and k == "pattern")}
    return [_light(each) for each in document] if isinstance(document, list) else document
