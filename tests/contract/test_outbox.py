"""Webhooks in every job store: what goes out, to whom next, and what is remembered of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from shared.jobs import Failure
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.outbox import LANE_MOST, LOG_MOST, OWNER_MOST, SECRETS_MOST, delivery_id
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.tickets import ticket_template
from tests.hooks import answered, ended, finish, hooked, names, run, take
from tests.orders import submission
from tests.waiting import wait_until

ALL = ("job.succeeded", "job.failed", "job.canceled", "job.expired", "job.running",
       "image.succeeded")  # fmt: skip


@pytest.fixture(params=["memory", "valkey", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        yield MemoryJobStore(max_retries=0)
        return
    client = connect(request.getfixturevalue("redis_of")(request.param), patience_s=2)
    yield RedisJobStore(client, StoreConfig(ticket_template(), max_retries=0))
    client.close()


# ---------------------------------------------------------------------------------- what goes out


def test_the_end_of_a_job_goes_out_once(store: JobStore) -> None:
    job = store.submit(hooked()).job
    assert take(store) == []

    taken = run(store)
    finish(store, taken)
    finish(store, taken)  # a repeated call

    (delivery,) = take(store)
    assert (delivery.job_id, delivery.name, delivery.tries) == (job.id, "job.succeeded", 0)
    assert (delivery.owner, delivery.lane) == ("alice", "https://hooks.example:443")
    assert delivery.body is None
    assert delivery.id == delivery_id(job.id, "job.succeeded")
    assert "." not in delivery.id
    assert abs(delivery.at - (store.get(job.id).images[0].finished_at or 0)) < 1


def test_a_job_without_a_webhook_puts_nothing_out(store: JobStore) -> None:
    store.submit(submission())
    finish(store, run(store))

    assert take(store) == []
    assert store.outbox_stats().waiting == 0


def test_each_wanted_event_goes_out(store: JobStore) -> None:
    job = store.submit(hooked(events=ALL, n=2)).job
    for _ in range(2):
        finish(store, run(store))

    expected = ["image.succeeded:0", "image.succeeded:1", "job.running", "job.succeeded"]
    assert names(take(store)) == [(job.id, name) for name in expected]


def test_what_is_not_wanted_does_not(store: JobStore) -> None:
    store.submit(hooked(events=("job.failed",)))
    finish(store, run(store))

    assert take(store) == []


def test_a_job_that_lost_its_worker_is_told_to_run_once(store: JobStore) -> None:
    store.submit(hooked(events=("job.running",)))
    for token in ("t1", "t2"):
        taken = run(store, token)
        store.release(taken.render_id, taken.token, lost=False)

    assert len(take(store)) == 1


def test_every_kind_of_end_has_its_own_event(store: JobStore) -> None:
    failed = store.submit(hooked(seed=1)).job.id
    taken = run(store)
    store.close(taken.render_id, taken.token, Failure(code="render_error", message="no"))
    canceled = store.submit(hooked(seed=2)).job.id
    store.cancel(canceled)
    store.cancel(canceled)
    expired = store.submit(hooked(seed=3, deadline_s=0.01)).job.id
    wait_until(lambda: store.expire().expired)

    assert Counter(names(take(store))) == Counter(
        [(failed, "job.failed"), (canceled, "job.canceled"), (expired, "job.expired")]
    )


def test_a_job_from_the_cache_goes_out_at_once(store: JobStore) -> None:
    store.submit(submission(seed=5))
    finish(store, run(store))

    order = hooked(seed=5, events=ALL)
    job = store.submit(order).job
    store.submit(order)  # the same call again

    assert names(take(store)) == [(job.id, "image.succeeded:0"), (job.id, "job.succeeded")]


def test_two_jobs_of_one_render_are_both_told(store: JobStore) -> None:
    jobs = [store.submit(hooked(seed=6, owner=owner)).job.id for owner in ("alice", "bob")]
    finish(store, run(store))

    assert names(take(store)) == sorted((job, "job.succeeded") for job in jobs)


# ----------------------------------------------------------------------------- one try at one time


def test_a_delivery_is_for_one_courier_at_a_time(store: JobStore) -> None:
    ended(store)

    first = store.claim_deliveries("c1", 10, 30.0)

    assert len(first) == 1
    assert store.claim_deliveries("c2", 10, 30.0) == []
    assert store.claim_deliveries("c1", 10, 30.0) == first  # its answer was lost


def test_when_its_courier_died_it_is_tried_again_with_the_same_id_and_body(store: JobStore) -> None:
    ended(store)
    (first,) = take(store, lease_s=0.05)
    assert store.freeze_delivery(first, "one") == "one"

    wait_until(lambda: (again := take(store)) and again[0].token != first.token)

    (stats,) = store.deliveries(first.job_id)
    assert (stats.state, stats.tries) == ("waiting", 0)
    assert not store.settle_delivery(first, answered(), "delivered")
    assert store.freeze_delivery(first, "two") is None


def test_the_first_body_is_that_of_all_tries(store: JobStore) -> None:
    ended(store)
    (first,) = take(store)
    assert store.freeze_delivery(first, "one é") == "one é"
    assert store.freeze_delivery(first, "two") == "one é"

    store.settle_delivery(first, answered(500), "waiting", 0.0)

    (second,) = take(store)
    assert (second.body, second.tries, second.id) == ("one é", 1, first.id)
    assert store.freeze_delivery(second, "three") == "one é"


def test_a_failed_try_waits_for_its_pause(store: JobStore) -> None:
    job_id = ended(store)
    (delivery,) = take(store)

    assert store.settle_delivery(delivery, answered(503), "waiting", 0.2)
    assert not store.settle_delivery(delivery, answered(503), "waiting", 0.2)  # a repeated call

    assert take(store) == []
    (seen,) = store.deliveries(job_id)
    assert (seen.state, seen.tries, len(seen.attempts)) == ("waiting", 1, 1)
    assert seen.due_at is not None
    assert abs(seen.due_at - seen.attempts[0].at - 0.2) < 0.01
    wait_until(lambda: take(store))


@pytest.mark.parametrize("state", ["delivered", "failed", "gone"])
def test_what_is_settled_is_not_tried_again(store: JobStore, state: str) -> None:
    job_id = ended(store)
    (delivery,) = take(store)
    store.freeze_delivery(delivery, "body")

    assert store.settle_delivery(delivery, answered(None, "no answer"), state)  # type: ignore[arg-type]

    assert take(store) == []
    (seen,) = store.deliveries(job_id)
    assert (seen.state, seen.due_at, seen.tries) == (state, None, 1)
    assert (seen.attempts[0].status, seen.attempts[0].error) == (None, "no answer")
    assert store.outbox_stats().waiting == 0


def test_the_log_keeps_the_last_attempts(store: JobStore) -> None:
    job_id = ended(store)
    for number in range(LOG_MOST + 3):
        (delivery,) = take(store)
        store.settle_delivery(delivery, answered(500 + number), "waiting")

    (seen,) = store.deliveries(job_id)
    assert seen.tries == LOG_MOST + 3
    assert [one.status for one in seen.attempts] == list(range(503, 503 + LOG_MOST))


# -------------------------------------------------------------------------------------- who is next


def test_one_receiver_has_only_so_many_under_way(store: JobStore) -> None:
    for _ in range(LANE_MOST + 2):
        ended(store, hooked("https://slow.example/", cache="bypass"))
    good = ended(store, hooked("https://good.example/", cache="bypass"))

    first = take(store)

    assert Counter(each.lane for each in first) == {
        "https://slow.example:443": LANE_MOST, "https://good.example:443": 1,
    }  # fmt: skip
    assert good in {each.job_id for each in first}
    assert take(store) == []
    ended(store, hooked("https://slow.example/", cache="bypass"))
    assert take(store) == []  # a new event makes no room
    slow = next(each for each in first if "slow" in each.lane)
    store.settle_delivery(slow, answered(), "delivered")
    assert [each.lane for each in take(store)] == [slow.lane]


def test_one_owner_has_only_so_many_under_way(store: JobStore) -> None:
    for number in range(OWNER_MOST + 3):
        ended(store, hooked(f"https://h{number}.example/", cache="bypass"))
    ended(store, hooked(owner="bob", cache="bypass"))

    first = take(store)

    assert Counter(each.owner for each in first) == {"alice": OWNER_MOST, "bob": 1}
    assert take(store) == []
    ended(store, hooked("https://new.example/", cache="bypass"))
    assert take(store) == []  # a new event makes no room
    store.settle_delivery(first[0], answered(), "delivered")
    assert len(take(store)) == 1


def test_places_come_free_when_a_lease_ends(store: JobStore) -> None:
    for _ in range(LANE_MOST + 1):
        ended(store)
    first = {each.job_id for each in take(store, lease_s=0.1)}
    assert len(first) == LANE_MOST

    seen: set[str] = set()
    wait_until(lambda: seen.update(each.job_id for each in take(store)) or len(seen) == LANE_MOST)


def test_owners_take_turns_whatever_their_backlog(store: JobStore) -> None:
    for number in range(6):
        ended(store, hooked(f"https://h{number}.example/", cache="bypass"))
    ended(store, hooked(owner="bob", cache="bypass"))
    ended(store, hooked(owner="carol", cache="bypass"))

    order = [take(store, most=1)[0].owner for _ in range(4)]

    assert order[:3] == ["alice", "bob", "carol"]
    assert order[3] == "alice"
    assert Counter(each.owner for each in take(store, most=3)) == {"alice": 3}


def test_receivers_of_one_owner_take_turns(store: JobStore) -> None:
    for _ in range(3):
        ended(store, hooked("https://busy.example/", cache="bypass"))
    ended(store, hooked("https://quiet.example/", cache="bypass"))

    assert "quiet" in take(store, most=2)[1].lane


# -------------------------------------------------------------------------------- again, and never


def test_a_delivery_is_sent_again_on_request(store: JobStore) -> None:
    job_id = ended(store)
    (first,) = take(store)
    store.freeze_delivery(first, "old")
    store.settle_delivery(first, answered(410), "gone")

    assert store.redeliver(job_id, "job.succeeded")

    (again,) = take(store)
    assert (again.id, again.body, again.tries) == (first.id, None, 0)
    assert len(store.deliveries(job_id)[0].attempts) == 1
    assert not store.redeliver(job_id, "job.failed")
    assert not store.redeliver("job_nothing", "job.succeeded")


def test_a_request_to_send_again_ends_a_pause(store: JobStore) -> None:
    job_id = ended(store)
    (first,) = take(store)
    store.freeze_delivery(first, "old")
    store.settle_delivery(first, answered(500), "waiting", 3600.0)
    assert take(store) == []

    store.redeliver(job_id, "job.succeeded")

    (again,) = take(store)
    assert (again.body, again.tries) == (None, 0)


def test_a_request_to_send_again_outruns_the_try_that_is_under_way(store: JobStore) -> None:
    job_id = ended(store)
    (first,) = take(store)

    store.redeliver(job_id, "job.succeeded")

    assert not store.settle_delivery(first, answered(500), "failed")
    assert len(take(store)) == 1


def test_a_job_that_is_deleted_takes_its_deliveries_along(store: JobStore) -> None:
    job_id = ended(store)
    store.delete(job_id)

    assert store.deliveries(job_id) == []
    assert take(store) == []
    assert store.outbox_stats().waiting == 0
    assert store.deliveries("job_nothing") == []


# ------------------------------------------------------------------------------ secrets and counts


def test_an_owner_has_a_secret_and_keeps_it(store: JobStore) -> None:
    assert store.webhook_secrets("alice", "a1") == ["a1"]
    assert store.webhook_secrets("alice", "a2") == ["a1"]
    assert store.webhook_secrets("bob", "b1") == ["b1"]


def test_a_replaced_secret_signs_on(store: JobStore) -> None:
    store.webhook_secrets("alice", "a1")

    assert store.webhook_secrets("alice", "a2", rotate=True) == ["a2", "a1"]
    assert store.webhook_secrets("alice", "a2", rotate=True) == ["a2", "a1"]  # a repeated call
    assert store.webhook_secrets("alice", "a3") == ["a2", "a1"]


def test_only_so_many_secrets_sign(store: JobStore) -> None:
    for number in range(SECRETS_MOST + 2):
        signing = store.webhook_secrets("alice", f"s{number}", rotate=True)

    assert signing == [f"s{SECRETS_MOST + 1 - back}" for back in range(SECRETS_MOST)]


def test_the_outbox_counts(store: JobStore) -> None:
    for _ in range(3):
        ended(store)
    first, second, third = take(store)
    store.settle_delivery(first, answered(200), "delivered")
    store.settle_delivery(second, answered(500), "waiting", 60.0)
    store.settle_delivery(third, answered(None, "no answer"), "waiting", 0.0)

    wait_until(lambda: store.outbox_stats().late_s > 0)
    stats = store.outbox_stats()
    assert stats.waiting == 2
    assert stats.totals == {"delivered": 1, "refused": 1, "unreachable": 1}
