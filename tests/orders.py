"""Orders and results for tests of the store, the worker and the API."""

from __future__ import annotations

import hashlib
from typing import Any

from ulid import ULID

from shared.catalog import load_catalog
from shared.fingerprint import fingerprint
from shared.jobs import Job, RenderSpec, StoredResult, image_seed
from shared.store.values import (
    Order,
    Submission,
)

TINY = load_catalog().find("tiny")
POOL = TINY.pool


def spec(seed: int = 0, **changes: Any) -> RenderSpec:
    fields = {
        "model": TINY.id,
        "model_digest": TINY.digest,
        "prompt": "a lighthouse at dusk",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance_scale": 4.5,
        "shift": 3.0,
        "seed": seed,
    }
    return RenderSpec.model_validate({**fields, **changes})


def submission(
    *,
    owner: str = "alice",
    seed: int = 0,
    n: int = 1,
    cost_s: float = 1.0,
    cache: str = "use",
    priority: str = "normal",
    deadline_s: float | None = None,
    idempotency: tuple[str, str] | None = None,
    **changes: Any,
) -> Submission:
    job = Job.model_validate(
        {
            "id": f"job_{ULID()}",
            "owner": owner,
            "input": {"seed": seed, "n": n},
            "cache": cache,
            "priority": priority,
            "created_at": 1000.0,
            "deadline_at": None if deadline_s is None else 1000.0 + deadline_s,
        }
    )
    specs = [spec(image_seed(seed, k), **changes) for k in range(n)]
    orders = [Order(str(ULID()), fingerprint(s), s, cost_s) for s in specs]
    return Submission(job, orders, idempotency)


def stored(fingerprint: str, token: str, data: bytes = b"picture") -> StoredResult:
    return StoredResult(
        fingerprint=fingerprint,
        token=token,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        width=64,
        height=64,
        stored_at=1000.0,
    )
