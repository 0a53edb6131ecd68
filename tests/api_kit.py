"""A farm without servers: the API on a store in memory, and a worker played by the test."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient
from ulid import ULID

from api.app import create_app
from api.live import Deaf, MemoryLive
from shared.catalog import Catalog
from shared.errors import ResultGone
from shared.jobs import Failure, StoredResult
from shared.models import ModelEntry
from shared.owners import Office, office_in_memory
from shared.owners.keys import Grant, make
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.values import (
    Claim,
    LoadingStep,
    WorkerStatus,
)
from shared.traces import Traces

TINY = ModelEntry(
    id="tiny",
    source="tiny:",
    aliases=("lab/tiny",),
    width=256,
    height=256,
    min_side_px=64,
    max_side_px=1024,
    max_pixels=512 * 1024,
    max_steps=50,
    steps=20,
)
LARGE = ModelEntry(id="large", source="hf:lab/large", steps=28)
CATALOG = Catalog([TINY, LARGE], "tiny")


class FakeResults:
    """Pictures in a dictionary."""

    def __init__(self) -> None:
        self.pictures: dict[tuple[str, str], bytes] = {}
        self.objects: dict[str, bytes] = {}

    def put(self, result: StoredResult, png: bytes, details: dict[str, Any]) -> None:
        self.pictures[result.fingerprint, result.token] = png

    def find(self, fingerprint: str) -> StoredResult | None:
        return None

    def read(self, result: StoredResult, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        try:
            png = self.pictures[result.fingerprint, result.token][start:end]
        except KeyError:
            raise ResultGone from None
        return (png[at : at + 100] for at in range(0, len(png), 100))

    def delete(self, result: StoredResult) -> None:
        self.pictures.pop((result.fingerprint, result.token), None)

    def check(self) -> None:
        pass

    def put_object(self, name: str, data: bytes, content_type: str) -> None:
        self.objects[name] = data

    def get_object(self, name: str) -> bytes | None:
        return self.objects.get(name)

    def list_objects(self, folder: str) -> Iterator[str]:
        return iter(sorted(name for name in self.objects if name.startswith(folder)))

    def delete_object(self, name: str) -> None:
        self.objects.pop(name, None)


@dataclass
class Farm:
    """The API and what lies behind it."""

    settings: Settings = field(default_factory=Settings)
    store: Any = field(default_factory=MemoryJobStore)
    results: Any = field(default_factory=FakeResults)
    office: Office = field(default_factory=office_in_memory)
    catalog: Catalog | None = None
    traces: Traces | None = None
    app: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        live = partial(MemoryLive, self.store) if isinstance(self.store, MemoryJobStore) else Deaf
        catalog = self.catalog or CATALOG
        self.app = create_app(
            self.settings,
            self.store,
            self.results,
            catalog,
            open_live=live,
            office=self.office,
            traces=self.traces,
        )

    def key(self, owner: str, **grant: Any) -> str:
        """A new key in the store."""
        text, key = make(Grant(owner=owner, **grant), now=0.0)
        self.office.keys.add(key)
        self.app.state.farm.keys._copy.read_at = float("-inf")  # seen at once, not in a moment
        return text

    def client(self, key: str | None = None) -> TestClient:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return TestClient(
            self.app, "http://farm.test", raise_server_exceptions=False, headers=headers
        )

    @property
    def pending(self) -> int:
        return sum(pool.pending for pool in self.store.stats().pools)

    def claim(self) -> Claim | None:
        return claim(self.store)

    def render(self) -> bytes:
        """Play the worker for one render; the PNG."""
        claimed = self.claim()
        assert claimed is not None, "nothing is queued"
        return self.finish(claimed)

    def finish(self, claimed: Claim, device_s: float = 0.0) -> bytes:
        return finish(self.store, self.results, claimed, device_s)

    def fail(self, code: str = "render_error", message: str = "the engine failed") -> None:
        claimed = self.claim()
        assert claimed is not None, "nothing is queued"
        self.store.close(claimed.render_id, claimed.token, Failure(code=code, message=message))


def claim(store: JobStore, pool: str = TINY.pool) -> Claim | None:
    return store.claim(pool, str(ULID()), "slot-0", "worker-0", 60.0)


def finish(store: JobStore, results: FakeResults, claimed: Claim, device_s: float = 0.0) -> bytes:
    png = draw(claimed.spec.width, claimed.spec.height, claimed.spec.seed)
    result = StoredResult(
        fingerprint=claimed.fingerprint,
        token=claimed.token,
        size_bytes=len(png),
        sha256=hashlib.sha256(png).hexdigest(),
        width=claimed.spec.width,
        height=claimed.spec.height,
        timings_s={"text": 0.1, "denoise": 0.5, "decode": 0.2, "encode": 9.0},
        stored_at=0.0,
    )
    results.put(result, png, {})
    assert store.storing(claimed.render_id, claimed.token, claimed.spec.steps)
    assert store.close(claimed.render_id, claimed.token, result, device_s=device_s)
    return png


def draw(width: int, height: int, seed: int) -> bytes:
    file = io.BytesIO()
    colour = tuple(hashlib.sha256(str(seed).encode()).digest()[:3])
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def worker(state: str = "ready", model: ModelEntry = TINY, **fields: Any) -> WorkerStatus:
    steps = (
        LoadingStep(name="preflight", status="done", seconds=0.1),
        LoadingStep(name="load", status="running"),
    )
    return WorkerStatus(
        name="worker-0", pool=model.pool, model=model.id, state=state, steps=steps, **fields
    )
