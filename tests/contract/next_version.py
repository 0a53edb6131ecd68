"""Records as the next version would write them: every record has a field that we do not know."""

from __future__ import annotations

import json
from typing import Any

import redis

from shared.jobs import RECORD_VERSION, RenderSpec, StoredResult
from shared.keys import KEYS
from shared.store.values import (
    Order,
    Submission,
)
from tests.orders import stored, submission

NEW = {"from_tomorrow": {"a": [1, 2]}}


def order_of_tomorrow(seed: int = 5) -> Submission:
    """A submission whose spec has a new field."""
    given = submission(seed=seed)
    order = given.orders[0]
    spec = RenderSpec.model_validate({**order.spec.model_dump(), **NEW})
    return Submission(
        given.job, [Order(order.render_id, order.fingerprint, spec, order.cost_s)], None
    )


def result_of_tomorrow(fingerprint: str, token: str) -> StoredResult:
    return StoredResult.model_validate({**stored(fingerprint, token).model_dump(), **NEW})


def age(client: redis.Redis, job: str, render: str) -> None:
    """Turn the records of a queued job into those of the next version."""
    record: dict[str, Any] = json.loads(str(client.hget(KEYS["job"] + job, "record")))
    record |= {**NEW, "version": RECORD_VERSION + 1}
    client.hset(KEYS["job"] + job, mapping={"record": json.dumps(record), "from_tomorrow": "1"})
    fields = {"from_tomorrow": "2", "version": str(RECORD_VERSION + 1)}
    client.hset(KEYS["render"] + render, mapping=fields)
