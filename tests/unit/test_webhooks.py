"""Webhooks as their receivers see them: a courier on a store in memory, and real receivers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from shared.errors import StoreUnavailable
from shared.jobs import Failure
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from shared.store.outbox import LANE_MOST, Delivered, Delivery
from shared.store.port import JobStore
from shared.webhooks import MOST_BYTES, PAUSES_S, new_secret, pause_s, signed
from tests.hooks import BASE, ended, finish, hooked, run
from tests.receiver import Receiver, receiving
from tests.waiting import wait_until
from worker.webhooks import Courier, verdict

SETTINGS = Settings(webhook_allow_hosts="127.0.0.0/8", signing_secret="s" * 32)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryJobStore:
    return MemoryJobStore(clock)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def start() -> Iterator[Callable[[JobStore], Courier]]:
    with ExitStack() as stack:

        def begin(store: JobStore) -> Courier:
            courier = Courier.of(SETTINGS, store)
            courier.start()
            stack.callback(courier.stop, 0.1)
            return courier

        yield begin


def one(store: JobStore, job_id: str) -> Delivered:
    (delivery,) = store.deliveries(job_id)
    return delivery


# ----------------------------------------------------------------------------------------- pure parts


def test_only_2xx_is_good_and_410_is_the_end() -> None:
    assert [verdict(status, 1)[0] for status in (200, 204, 299)] == ["delivered"] * 3
    assert [verdict(s, 1)[0] for s in (None, 301, 302, 400, 404, 429, 500)] == ["waiting"] * 7
    assert verdict(410, 1)[0] == "gone"


def test_there_are_ten_tries_in_three_days() -> None:
    pauses = [pause_s(tries) for tries in range(1, 11)]

    assert pauses[-1] is None
    for pause, nominal in zip(pauses, PAUSES_S, strict=False):
        assert pause is not None
        assert 0.9 * nominal <= pause <= 1.1 * nominal
    assert verdict(500, 10) == ("failed", 0.0)
    assert sum(PAUSES_S) / 3600 == pytest.approx(75.6, abs=0.1)
    assert len({pause_s(1) for _ in range(10)}) > 1


def test_a_signature_by_each_secret_is_what_the_library_verifies() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    headers = signed([new, old], "msg_1", time.time(), '{"é": 1}')

    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        assert Webhook(secret).verify('{"é": 1}'.encode(), headers) == {"é": 1}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify('{"é": 1}', headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify('{"é": 2}', headers)


# ------------------------------------------------------------------------------------------ one message


def test_the_message_is_the_job_without_its_prompt(
    store: MemoryJobStore, receiver: Receiver, start: Callable[[JobStore], Courier]
) -> None:
    job_id = ended(store, hooked(receiver.url, seed=7))
    secret = store.webhook_secrets("alice", new_secret())[0]

    start(store)

    wait_until(lambda: one(store, job_id).state == "delivered")
    (message,) = receiver.verified(secret)
    assert message["type"] == "job.succeeded"
    assert message["timestamp"] == "1970-01-12T13:46:40.000Z"
    data = message["data"]
    assert (data["id"], data["status"], data["done"]) == (job_id, "succeeded", True)
    assert data["input"] == {"model": "tiny", "seed": 7}
    assert data["urls"]["self"] == f"{BASE}/jobs/{job_id}"
    assert data["images"][0]["url"].startswith(f"{BASE}/files/{job_id}/0.png?")
    assert "a fox" not in receiver.got[0][1].decode()
    headers = receiver.got[0][0]
    assert headers["webhook-id"] == one(store, job_id).id
    assert headers["content-type"] == "application/json"
    assert secret not in str(receiver.got)
    (attempt,) = one(store, job_id).attempts
    assert (attempt.status, attempt.error) == (204, None)


def test_a_large_job_is_shortened(
    store: MemoryJobStore, receiver: Receiver, start: Callable[[JobStore], Courier]
) -> None:
    order = hooked(receiver.url, n=100)
    pairs = {f"key {n}": "é" * 512 for n in range(16)}
    order = replace(order, job=order.job.model_copy(update={"metadata": pairs}))
    job_id = store.submit(order).job.id
    for _ in range(99):
        finish(store, run(store))
    taken = run(store)
    store.close(taken.render_id, taken.token, Failure(code="render_error", message="x" * 30_000))

    start(store)

    wait_until(lambda: one(store, job_id).state == "delivered")
    body = receiver.got[0][1]
    data = json.loads(body)["data"]
    assert len(body) < MOST_BYTES
    assert data["truncated"] == ["images", "metadata", "error"]
    assert data["images"][99] == {"index": 99, "seed": 99, "status": "failed"}
    assert (data["id"], data["error"]["code"]) == (job_id, "render_error")


def test_all_tries_have_one_id_one_body_and_a_time_of_their_own(
    store: MemoryJobStore, clock: Clock, start: Callable[[JobStore], Courier]
) -> None:
    with receiving(lambda r: 500 if len(r.got) == 1 else 204) as receiver:
        job_id = store.submit(hooked(receiver.url, events=("job.running",))).job.id
        taken = run(store)
        start(store)
        wait_until(lambda: one(store, job_id).tries == 1)
        assert one(store, job_id).due_at == pytest.approx(clock.now + 5, abs=0.6)
        finish(store, taken)  # the job goes on meanwhile

        clock.now += 6

        wait_until(lambda: one(store, job_id).state == "delivered")
    (first, first_body), (second, second_body) = receiver.got
    assert first["webhook-id"] == second["webhook-id"]
    assert first_body == second_body
    assert json.loads(second_body)["data"]["status"] == "running"
    assert [a.status for a in one(store, job_id).attempts] == [500, 204]


def test_a_new_secret_signs_beside_the_old_one(
    store: MemoryJobStore, receiver: Receiver, start: Callable[[JobStore], Courier]
) -> None:
    old = store.webhook_secrets("alice", new_secret())[0]
    new = store.webhook_secrets("alice", new_secret(), rotate=True)[0]
    ended(store, hooked(receiver.url))

    start(store)

    wait_until(lambda: receiver.got)
    assert old != new
    assert receiver.verified(old) == receiver.verified(new)


# ----------------------------------------------------------------------------------- bad receivers


def test_410_ends_it_and_is_remembered(
    store: MemoryJobStore, clock: Clock, start: Callable[[JobStore], Courier]
) -> None:
    with receiving(lambda r: 410) as receiver:
        job_id = ended(store, hooked(receiver.url))
        start(store)
        wait_until(lambda: one(store, job_id).state == "gone")
        clock.now += 10**6
        later = ended(store, hooked(receiver.url, seed=2))
        wait_until(lambda: one(store, later).state == "gone")

    assert one(store, job_id).attempts[0].status == 410
    assert len(receiver.got) == 2


def test_a_redirect_is_a_failure(
    store: MemoryJobStore, receiver: Receiver, start: Callable[[JobStore], Courier]
) -> None:
    with receiving(lambda r: 307) as moved:
        moved.location = receiver.url
        job_id = ended(store, hooked(moved.url))
        start(store)

        wait_until(lambda: one(store, job_id).tries == 1)

    assert (one(store, job_id).state, receiver.got) == ("waiting", [])


@pytest.mark.parametrize(
    "url", ["https://10.0.0.1/a", "http://169.254.169.254/latest", "https://[::1]/"]
)
def test_a_forbidden_address_is_not_called_and_the_log_says_why(
    store: MemoryJobStore, start: Callable[[JobStore], Courier], url: str
) -> None:
    job_id = ended(store, hooked(url))
    start(store)

    wait_until(lambda: one(store, job_id).tries == 1)

    (attempt,) = one(store, job_id).attempts
    assert attempt.status is None
    assert attempt.error is not None
    assert attempt.error.startswith("the URL ")


def test_a_hanging_receiver_delays_nobody_else(
    store: MemoryJobStore, receiver: Receiver, start: Callable[[JobStore], Courier]
) -> None:
    with receiving() as hanging:
        hanging.hold.clear()
        for seed in range(200):
            ended(store, hooked(hanging.url, seed=seed))
        start(store)
        wait_until(lambda: len(hanging.got) == LANE_MOST)

        good = [ended(store, hooked(receiver.url, seed=n)) for n in range(1000, 1005)]

        wait_until(lambda: all(one(store, job).state == "delivered" for job in good), 3.0)
        assert len(hanging.got) == LANE_MOST
        assert store.outbox_stats().waiting == 200


# --------------------------------------------------------------------------------------- the courier


def test_two_couriers_deliver_each_once(
    store: MemoryJobStore, receiver: Receiver, start: Callable[[JobStore], Courier]
) -> None:
    jobs = [ended(store, hooked(receiver.url, seed=seed)) for seed in range(40)]
    start(store)
    start(store)

    wait_until(lambda: all(one(store, job).state == "delivered" for job in jobs))

    assert len(receiver.ids) == len(set(receiver.ids)) == 40


def test_a_store_that_is_away_is_asked_again_and_said_once(
    receiver: Receiver, start: Callable[[JobStore], Courier], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Away(MemoryJobStore):
        left = 3

        def claim_deliveries(self, token: str, most: int, lease_s: float) -> list[Delivery]:
            self.left -= 1
            if self.left >= 0:
                raise StoreUnavailable
            return super().claim_deliveries(token, most, lease_s)

    monkeypatch.setattr("worker.webhooks.AWAY_S", 0.01)
    store = Away()
    job_id = ended(store, hooked(receiver.url))
    start(store)

    wait_until(lambda: one(store, job_id).state == "delivered")

    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == ["no_deliveries"]


def test_the_log_names_the_delivery_and_never_the_url(
    store: MemoryJobStore, receiver: Receiver, start: Callable[[JobStore], Courier],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO", "farm.webhooks")
    job_id = ended(store, hooked(receiver.url + "&token=hush"))
    start(store)

    wait_until(lambda: any(record.message == "webhook" for record in caplog.records))

    (record,) = [vars(r) for r in caplog.records if r.message == "webhook"]
    assert (record["job"], record["delivery"]) == (job_id, one(store, job_id).id)
    assert (record["outcome"], record["status"], record["attempt"]) == ("delivered", 204, 1)
    assert "hush" not in str(record)


def test_a_courier_that_stops_begins_nothing_more(
    store: MemoryJobStore, receiver: Receiver
) -> None:
    courier = Courier.of(SETTINGS, store)
    courier.start()
    courier.stop()

    job_id = ended(store, hooked(receiver.url))

    assert (one(store, job_id).state, receiver.got) == ("waiting", [])
