"""What must hold after a run, checked from outside: over HTTP, in Redis, in the result store.

Each check yields sentences about what is wrong; no sentence, no fault.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import PIL.Image

from shared.jobs import FINAL, JOB_FINAL, JobStatus, RenderState, StoredResult
from shared.keys import KEYS
from shared.results import names
from shared.results.local import ABANDONED_S
from tests.chaos.farm import ChaosFarm
from tests.chaos.load import Accepted, Image, Load

_STAGES = {"running": 0, "storing": 1, "queued": 2, **dict.fromkeys(FINAL, 3)}
Hash = dict[str, str]


@dataclass(slots=True)
class Books:
    """Everything that Redis and the result store hold, read once, past the wires."""

    jobs: dict[str, Hash]
    renders: dict[str, Hash]
    totals: Counter[str]
    left: dict[str, int]  # keys that must be empty by now
    objects: dict[str, int]

    @staticmethod
    def of(farm: ChaosFarm) -> Books:
        client = farm.redis()

        def hashes(prefix: str) -> dict[str, Hash]:
            keys = client.scan_iter(prefix + "*", count=500)
            return {k.removeprefix(prefix): cast(Hash, client.hgetall(k)) for k in keys}

        left = {
            KEYS[name]: int(client.zcard(KEYS[name])) for name in ("leases", "deadlines", "poison")
        }
        for prefix in (KEYS["pending"], KEYS["delayed"]):
            left |= {key: int(client.zcard(key)) for key in client.scan_iter(prefix + "*")}
        for prefix in (KEYS["slot"], KEYS["waiters"]):
            left |= {key: int(client.scard(key)) for key in client.scan_iter(prefix + "*")}
        totals = {k: int(v) for k, v in client.hgetall(KEYS["totals"]).items()}
        return Books(
            hashes(KEYS["job"]), hashes(KEYS["render"]), Counter(totals), left, farm.stored()
        )

    def published(self) -> dict[str, StoredResult]:
        """{render: its result} of what succeeded."""
        return {
            render: StoredResult.model_validate_json(fields["result"])
            for render, fields in self.renders.items()
            if fields["state"] == RenderState.succeeded
        }


def faults(farm: ChaosFarm, load: Load, books: Books) -> list[str]:
    """Everything that is wrong after a run, in sentences."""
    seen = (
        _answers_were_sane(load),
        _accepted_are_final(load, books),
        _seen_in_order(load),
    )
    return [sentence for check in seen for sentence in check] + wrong_books(farm, books)


def wrong_books(farm: ChaosFarm, books: Books) -> list[str]:
    """What Redis, the result store and the log show to be wrong in a farm at rest."""
    checks: Iterable[Iterator[str]] = (
        _every_job_is_over(books),
        _ordered_once(books),
        _nothing_is_left(books),
        _counters_add_up(books),
        _published_once(books),
        _stored_as_recorded(farm, books),
        _logged_once(farm),
    )
    return [sentence for check in checks for sentence in check]


def _answers_were_sane(load: Load) -> Iterator[str]:
    yield from load.odd


def _ordered_once(books: Books) -> Iterator[str]:
    """However often a client sent its order again with its Idempotency-Key."""
    records = (json.loads(fields["record"]) for fields in books.jobs.values())
    orders = Counter(record["metadata"].get("order") for record in records)
    yield from (f"order {order} became {n} jobs" for order, n in orders.items() if order and n > 1)


def _accepted_are_final(load: Load, books: Books) -> Iterator[str]:
    for job in load.accepted.values():
        if job.job_id not in books.jobs:
            yield f"{job.job_id} is lost"
        elif job.final is None:
            yield f"{job.job_id} is not final: {job.statuses[-1]}"
        elif not _may_end_so(job, job.final["status"]):
            yield f"{job.job_id} ({job.order.kind}) ended {job.final['status']}: {job.final['error']}"


def _every_job_is_over(books: Books) -> Iterator[str]:
    """Also one that nobody was told of, because the answer was lost."""
    for job_id, fields in books.jobs.items():
        if int(fields["open"]) != 0:
            yield f"{job_id} still waits for {fields['open']} renders"


def _may_end_so(job: Accepted, status: str) -> bool:
    if status == JobStatus.canceled:
        return job.cancel_asked
    if status == JobStatus.expired:
        return "deadline_s" in job.order.body
    return status == JobStatus.succeeded


def _seen_in_order(load: Load) -> Iterator[str]:
    """A final status stays; an image never goes back, but to `queued` in a later attempt."""
    for job in load.accepted.values():
        for status in job.statuses[:-1]:
            if status in JOB_FINAL:
                yield f"{job.job_id} left its final status: {job.statuses}"
        for index, seen in enumerate(zip(*job.images, strict=True)):
            if not legal(list(seen)):
                yield f"image {index} of {job.job_id} went back: {seen}"


def legal(seen: list[Image]) -> bool:
    return all(_follows(old, new) for old, new in pairwise(seen))


def _follows(old: Image, new: Image) -> bool:
    (was, old_attempt, old_sha), (now, attempt, sha) = old, new
    if was in FINAL:
        return (now, sha) == (was, old_sha)
    return now in FINAL or (attempt, _STAGES[now]) >= (old_attempt, _STAGES[was])


def _nothing_is_left(books: Books) -> Iterator[str]:
    yield from (f"{key} still holds {count}" for key, count in books.left.items() if count)
    for render, fields in books.renders.items():
        if fields["state"] not in FINAL:
            yield f"render {render} is {fields['state']}"


def _counters_add_up(books: Books) -> Iterator[str]:
    """The totals are what the records say: no step was counted twice, none was missed."""
    states = Counter(fields["state"] for fields in books.renders.values())
    sums = {
        "claimed": sum(int(fields["attempt"]) for fields in books.renders.values()),
        "lost": sum(int(fields["losses"]) for fields in books.renders.values()),
        "found": sum("found" in fields for fields in books.renders.values()),
        **{state: states[state] for state in FINAL},
    }
    sums["retried"] = sum(int(fields.get("retries", 0)) for fields in books.renders.values())
    images = sum(len(fields["renders"].split()) for fields in books.jobs.values())
    sums["hit"] = sum(key.startswith("cached:") for job in books.jobs.values() for key in job)
    sums["attached"] = images - len(books.renders) - sums["hit"]
    for name, count in sums.items():
        if books.totals[name] != count:
            yield f"total {name} is {books.totals[name]}, the records add up to {count}"


def _published_once(books: Books) -> Iterator[str]:
    ordinary = Counter(
        fields["fingerprint"]
        for fields in books.renders.values()
        if fields["state"] == RenderState.succeeded and "fresh" not in fields
    )
    yield from (f"{f} was published {n} times" for f, n in ordinary.items() if n > 1)
    for render, fields in books.renders.items():
        if ("result" in fields) != (fields["state"] == RenderState.succeeded):
            yield f"render {render} is {fields['state']}, result: {fields.get('result')}"
    fresh = [r.token for k, r in books.published().items() if "fresh" in books.renders[k]]
    yield from (f"token {t} was published twice" for t, n in Counter(fresh).items() if n > 1)


def _stored_as_recorded(farm: ChaosFarm, books: Books) -> Iterator[str]:
    results = farm.results()
    for render, result in books.published().items():
        data = b"".join(results.read(result))
        if hashlib.sha256(data).hexdigest() != result.sha256:
            yield f"the stored picture of {render} is not the recorded one"
        if names.record(result.fingerprint, result.token) not in books.objects:
            yield f"the stored picture of {render} has no record beside it"
    yield from _temporary_files(farm, books)


def _temporary_files(farm: ChaosFarm, books: Books) -> Iterator[str]:
    """What killed processes left in a local store is swept by its own rule, once it is old."""
    for name in books.objects:
        if name.startswith("tmp/"):
            path = Path(farm.settings["FARM_RESULTS_DIR"]) / name
            os.utime(path, (time.time() - 2 * ABANDONED_S,) * 2)
    farm.results().check()
    yield from (f"{name} was not swept" for name in farm.stored() if name.startswith("tmp/"))


def lost(load: Load, books: Books) -> int:
    return sum(job_id not in books.jobs for job_id in load.accepted)


def doubled(books: Books) -> int:
    return len([*_published_once(books), *_ordered_once(books)])


def unpublished(books: Books) -> int:
    """Pictures that lost to another claim; `renderfarm gc` removes them."""
    won = {names.picture(r.fingerprint, r.token) for r in books.published().values()}
    return len({name for name in books.objects if name.endswith(".png")} - won)


def _logged_once(farm: ChaosFarm) -> Iterator[str]:
    """One end of each render is told, at most: a killed worker may not have come to it."""
    told = [line for line in farm.told("worker") if line["action"] in ("stored", "found")]
    ends = Counter(line["render"] for line in told)
    yield from (
        f"render {render} ended {n} times in the log" for render, n in ends.items() if n > 1
    )


def differing(farm: ChaosFarm, load: Load, seed: int, sample: int) -> list[str]:
    """Render a sample again in the farm that is calm now; the jobs whose pixels differ."""
    done = [j for j in load.accepted.values() if j.final and j.final["status"] == "succeeded"]
    chosen = random.Random(seed).sample(done, min(sample, len(done)))
    return [job.job_id for job in chosen if not _same(farm, job)]


def _same(farm: ChaosFarm, job: Accepted) -> bool:
    body = {k: v for k, v in job.order.body.items() if k != "deadline_s"}
    again = farm.submit(owner=job.order.owner, **{**body, "cache": "bypass"})
    calm = farm.finished(again["id"], job.order.owner)
    assert job.final is not None
    return _pixels(farm, job.final, job) == _pixels(farm, calm, job)


def _pixels(farm: ChaosFarm, told: dict[str, Any], job: Accepted) -> list[bytes]:
    pictures = []
    for index, image in enumerate(told["images"]):
        path = f"/jobs/{told['id']}/result?index={index}"
        answer = farm.call("GET", path, owner=job.order.owner)
        assert hashlib.sha256(answer.content).hexdigest() == image["sha256"], told["id"]
        with PIL.Image.open(io.BytesIO(answer.content)) as picture:
            pictures.append(picture.tobytes())
    return pictures
