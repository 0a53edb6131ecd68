"""Tickets: made by Celery's producer, pushed by the scripts, topped up when they are lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from celery.contrib.testing.worker import start_worker

from shared.keys import KEYS, queue_name
from shared.settings import load_settings
from shared.store.address import connect
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import TICKETS_MAX, StoreConfig
from shared.tickets import TASK, make_app, ticket_template
from tests.orders import POOL, stored, submission
from tests.waiting import wait_until

QUEUE = queue_name(POOL)


@pytest.fixture
def client(redis_server: str) -> Iterator[redis.Redis]:
    client = connect(redis_server, patience_s=2)
    yield client
    client.close()


@pytest.fixture
def store(client: redis.Redis) -> RedisJobStore:
    return RedisJobStore(client, StoreConfig(ticket_template()))


def test_there_is_a_ticket_for_each_render_up_to_a_few(
    store: RedisJobStore, client: redis.Redis
) -> None:
    store.submit(submission(n=3))
    assert client.llen(QUEUE) == 3

    store.submit(submission(seed=100, n=40))
    assert client.llen(QUEUE) == TICKETS_MAX


def test_every_claim_tops_up_for_the_next(store: RedisJobStore, client: redis.Redis) -> None:
    store.submit(submission(n=40))

    for turn in range(40):
        assert client.rpop(QUEUE), f"no ticket for claim {turn}"
        assert store.claim(POOL, f"t{turn}", "slot", "worker", 30.0)

    assert client.llen(QUEUE) == 0


def test_a_cache_hit_makes_no_ticket(store: RedisJobStore, client: redis.Redis) -> None:
    store.submit(submission())
    client.delete(QUEUE)
    taken = store.claim(POOL, "t", "slot", "worker", 30.0)
    assert taken
    store.close(taken.render_id, "t", stored(taken.fingerprint, "t"))

    store.submit(submission())

    assert client.llen(QUEUE) == 0


@pytest.mark.parametrize("how", ["release", "reap", "adopt"])
def test_a_render_given_back_brings_its_ticket(
    store: RedisJobStore, client: redis.Redis, how: str
) -> None:
    store.submit(submission())
    taken = store.claim(POOL, "t", "slot", "worker", 0.0)
    assert taken
    client.delete(QUEUE)

    {
        "release": lambda: store.release(taken.render_id, "t", lost=True),
        "reap": store.reap,
        "adopt": lambda: store.adopt("slot"),
    }[how]()

    assert client.llen(QUEUE) == 1


def test_lost_tickets_are_replaced(store: RedisJobStore, client: redis.Redis) -> None:
    store.submit(submission(n=5))
    client.delete(QUEUE)

    assert store.reconcile() == 5
    assert store.reconcile() == 0
    assert client.llen(QUEUE) == 5


def test_the_audit_repairs_what_a_damaged_log_leaves(
    store: RedisJobStore, client: redis.Redis
) -> None:
    job = store.submit(submission(n=2)).job
    held = store.claim(POOL, "t", "slot", "worker", 600.0)
    assert held
    client.delete("farm:pending:" + POOL, "farm:leases", QUEUE)

    repaired = store.audit().requeued

    assert set(repaired) == {image.render.id for image in job.images}
    assert store.reap().requeued == (held.render_id,)
    assert client.llen(QUEUE) == 2
    assert store.audit().requeued == ()


def test_an_outage_longer_than_a_lease_costs_no_living_worker_its_render(
    store: RedisJobStore, client: redis.Redis
) -> None:
    store.submit(submission(n=2))
    alive = store.claim(POOL, "alive", "a", "a", 0.0)
    dead = store.claim(POOL, "dead", "b", "b", 0.0)
    assert alive
    assert dead
    client.set(KEYS["reaped"], time.time() - 10)  # nobody could renew, nobody could reap

    assert store.reap().requeued == ()  # it may come back before any keeper does
    assert store.renew({"alive": (alive.render_id, 1)}, 30.0) == {"alive": "held"}

    seen: list[str] = []
    wait_until(lambda: bool(seen.extend(store.reap().requeued) or seen))
    assert seen == [dead.render_id]


def test_the_reaper_of_a_full_server_is_content_when_nothing_is_due(
    store: RedisJobStore, client: redis.Redis
) -> None:
    store.submit(submission())
    assert store.claim(POOL, "alive", "a", "a", 30.0)
    client.config_set("maxmemory", 1)
    try:
        assert store.reap().requeued == ()
    finally:
        client.config_set("maxmemory", 0)


@pytest.mark.filterwarnings("default")  # Celery's own test worker leaves threads to the collector
def test_a_celery_worker_takes_the_tickets_that_the_scripts_wrote(
    store: RedisJobStore, redis_server: str
) -> None:
    app = make_app(load_settings({"FARM_REDIS_URL": redis_server}))
    taken = threading.Semaphore(0)

    @app.task(name=TASK, shared=False)
    def take() -> None:
        taken.release()

    with start_worker(
        app, pool="solo", perform_ping_check=False, queues=[QUEUE], shutdown_timeout=20
    ):
        store.submit(submission(n=3))
        for _ in range(3):
            assert taken.acquire(timeout=20)
