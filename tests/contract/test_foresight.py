"""What is known beforehand: places, the work before them, and what an order would meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from ulid import ULID

from shared.jobs import Failure
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore()
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template()))
    client.close()


def run(store: JobStore) -> Claim:
    taken = store.claim(POOL, str(ULID()), "slot", "worker", 30.0)
    assert taken is not None
    return taken


def finish(store: JobStore, device_s: float = 0.0) -> None:
    taken = run(store)
    result = stored(taken.fingerprint, taken.token)
    assert store.close(taken.render_id, taken.token, result, device_s=device_s)


def measure(store: JobStore, rate: float) -> None:
    """The pool renders so much slower than predicted."""
    store.submit(submission(seed=99, owner="zoe", cost_s=1.0))
    finish(store, device_s=rate)


def test_the_last_queued_image_of_a_job_knows_the_work_before_it(store: JobStore) -> None:
    measure(store, rate=2.0)
    store.submit(submission(seed=1, cost_s=3.0))
    job = store.submit(submission(seed=10, n=3, cost_s=5.0)).job

    first, second, last = job.images
    assert [image.position for image in job.images] == [1, 2, 3]
    assert (first.ahead_s, second.ahead_s, last.ahead_s) == (None, None, 3.0 + 5.0 + 5.0)
    assert {image.rate for image in job.images} == {2.0}
    assert {image.render.cost_s for image in job.images} == {5.0}


def test_without_a_measured_render_there_is_no_rate(store: JobStore) -> None:
    job = store.submit(submission()).job
    assert (job.images[0].rate, job.images[0].ahead_s) == (None, 0.0)

    taken = run(store)
    store.close(taken.render_id, taken.token, Failure(code="render_error", message="no"))
    assert store.get(job.id).images[0].rate is None


def test_a_finished_image_has_no_place_and_no_rate(store: JobStore) -> None:
    job = store.submit(submission()).job
    finish(store, device_s=1.0)

    image = store.get(job.id).images[0]

    assert (image.position, image.rate, image.ahead_s) == (None, None, None)


def test_what_is_foreseen_is_what_the_order_meets(store: JobStore) -> None:
    measure(store, rate=2.0)
    for owner, seed, n in (("alice", 1, 4), ("bob", 50, 3), ("carol", 60, 1)):
        store.submit(submission(owner=owner, seed=seed, n=n, cost_s=3.0))
    run(store), run(store)
    order = submission(owner="bob", seed=20, n=3, cost_s=7.0)

    foreseen = store.foresee(order)
    job = store.submit(order).job

    places = [image.position for image in job.images]
    assert (foreseen.first, foreseen.last) == (places[0], places[2])
    assert foreseen.ahead_s == job.images[2].ahead_s
    assert (foreseen.ways, foreseen.rate, foreseen.queued) == (("new",) * 3, 2.0, 6)
    mine = store.backlog([POOL], "bob").owners[0].queued - 3
    assert (foreseen.mine, foreseen.mine_gpu_s) == (mine, mine * 3.0 * 2.0)


def test_stored_and_shared_images_are_foreseen_as_such(store: JobStore) -> None:
    store.submit(submission(seed=1))
    finish(store)
    store.submit(submission(seed=2, owner="bob", cost_s=4.0))
    store.submit(submission(seed=3, owner="bob", cost_s=4.0))
    run(store)

    foreseen = store.foresee(submission(seed=1, n=3))
    assert foreseen.ways == ("hit", "attached", "attached")
    assert (foreseen.first, foreseen.last, foreseen.ahead_s) == (0, 0, 0.0)
    again = store.foresee(submission(seed=1, cache="bypass"))
    assert (again.ways, again.first) == (("new",), 0), "her turn comes before his second"
    hit = store.foresee(submission(seed=1))
    assert (hit.ways, hit.first, hit.last) == (("hit",), None, None)


@pytest.mark.parametrize("engine", ["valkey", "redis"])
def test_a_look_ahead_writes_nothing(request: pytest.FixtureRequest, engine: str) -> None:
    client = connect(request.getfixturevalue("redis_of")(engine), patience_s=2)
    store = RedisJobStore(client, StoreConfig(ticket_template()))
    measure(store, rate=2.0)
    store.submit(submission(seed=1, n=3))

    before = everything(client)
    store.foresee(submission(seed=2, n=3, deadline_s=5.0, idempotency=("key", "body")))

    assert everything(client) == before
    client.close()


def everything(client: redis.Redis) -> dict[str, object]:
    """Not as DUMP has it: a hash may be stored in another order after it was read."""
    read: dict[str, Callable[[str], object]] = {
        "string": client.get, "hash": client.hgetall, "set": client.smembers,
        "list": lambda key: client.lrange(key, 0, -1),
        "zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }  # fmt: skip
    return {str(key): read[str(client.type(key))](str(key)) for key in client.scan_iter()}
