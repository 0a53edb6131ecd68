"""What is told of a job, on every job store: stored events, the pulse, and what passes."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis

from shared.events import FINAL_EVENTS, Event
from shared.jobs import Failure, Job
from shared.keys import KEYS
from shared.store.address import connect
from shared.store.memory import MemoryJobStore
from shared.store.port import JobStore
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.store.values import Claim, Pulse
from shared.tickets import ticket_template
from tests.orders import POOL, stored, submission
from tests.waiting import wait_until

Ear = Callable[[str], AbstractContextManager[list[str]]]
NO = Failure(code="render_error", message="no")


class Heard:
    """A store, and an ear for what is said of one job."""

    def __init__(self, store: JobStore, listen: Ear) -> None:
        self.store, self.listen = store, listen


@pytest.fixture(params=["memory", "valkey", "redis"])
def farm(request: pytest.FixtureRequest) -> Iterator[Heard]:
    if request.param == "memory":
        memory = MemoryJobStore(max_losses=2, max_retries=2, retry_pause_s=0.01)
        yield Heard(memory, lambda job: _memory_ear(memory, job))
        return
    url = request.getfixturevalue("redis_of")(request.param)
    client = connect(url, patience_s=2)
    config = StoreConfig(ticket_template(), max_losses=2, max_retries=2, retry_pause_s=0.01)
    yield Heard(RedisJobStore(client, config), lambda job: _redis_ear(client, job))
    client.close()


@contextmanager
def _memory_ear(store: MemoryJobStore, wanted: str) -> Iterator[list[str]]:
    said: list[str] = []

    def hear(job: str, message: str) -> None:
        if job == wanted:
            said.append(message)

    store.listen(hear)
    yield said
    store.unlisten(hear)


@contextmanager
def _redis_ear(client: redis.Redis, job: str) -> Iterator[list[str]]:
    """What was said is there when the block ends."""
    said: list[str] = []
    with client.pubsub() as ear:
        ear.subscribe(KEYS["live"] + job)
        assert ear.get_message(timeout=5)["type"] == "subscribe"
        yield said
        client.publish(KEYS["live"] + job, "end")
        while (message := ear.get_message(timeout=5)) and message["data"] != "end":
            said.append(message["data"])


def claim(store: JobStore, token: str = "t1", slot: str = "slot") -> Claim:
    taken = store.claim(POOL, token, slot, "worker", 30.0)
    assert taken is not None
    return taken


def finish(store: JobStore, taken: Claim) -> None:
    assert store.close(taken.render_id, taken.token, stored(taken.fingerprint, taken.token))


def history(store: JobStore, job: Job) -> list[tuple[str, int | None, int]]:
    return [(e.type, e.index, e.attempt) for e in all_of(store, job)]


def all_of(store: JobStore, job: Job) -> list[Event]:
    events = store.events(job.id, None)
    assert events is not None
    return events


def test_the_history_of_a_job_that_succeeds(farm: Heard) -> None:
    store = farm.store
    job = store.submit(submission(n=2)).job
    first, second = claim(store, "t1"), claim(store, "t2")
    finish(store, second)
    finish(store, first)

    k = [
        next(i for i, o in enumerate(job.images) if o.render.id == c.render_id)
        for c in (first, second)
    ]
    assert history(store, job) == [
        ("job.queued", None, 0),
        ("job.running", None, 0),
        ("image.running", k[0], 1),
        ("image.running", k[1], 1),
        ("image.succeeded", k[1], 1),
        ("image.succeeded", k[0], 1),
        ("job.succeeded", None, 0),
    ]  # fmt: skip
    assert store.get(job.id).last_event == all_of(store, job)[-1].id


def test_a_job_from_the_cache_has_a_whole_history_at_once(farm: Heard) -> None:
    store = farm.store
    store.submit(submission())
    finish(store, claim(store))

    job = store.submit(submission(owner="bob")).job

    types = [type for type, _, _ in history(store, job)]
    assert types == ["job.queued", "image.succeeded", "job.succeeded"]


def test_who_joins_a_running_render_is_told_that_it_runs(farm: Heard) -> None:
    store = farm.store
    store.submit(submission())
    taken = claim(store)

    job = store.submit(submission(owner="bob")).job
    finish(store, taken)

    types = [type for type, _, _ in history(store, job)]
    assert types == [
        "job.queued",
        "job.running",
        "image.running",
        "image.succeeded",
        "job.succeeded",
    ]


def test_a_lost_worker_says_nothing_and_the_next_start_has_a_higher_attempt(farm: Heard) -> None:
    store = farm.store
    job = store.submit(submission()).job
    claim(store)
    store.adopt("slot")
    finish(store, claim(store, "t2"))

    assert history(store, job)[1:5] == [
        ("job.running", None, 0),
        ("image.running", 0, 1),
        ("image.running", 0, 2),
        ("image.succeeded", 0, 2),
    ]


def test_every_way_to_end_has_its_name(farm: Heard) -> None:
    store = farm.store
    failed, canceled, stopped, late = (
        store.submit(submission(seed=seed, deadline_s=deadline_s)).job
        for seed, deadline_s in ((1, None), (2, None), (3, None), (4, 0.01))
    )
    taken = claim(store)
    store.close(taken.render_id, taken.token, NO)
    store.cancel(canceled.id)
    running = claim(store, "t3")
    store.cancel(stopped.id)
    store.close(running.render_id, "t3", None)
    wait_until(lambda: store.expire() and store.get(late.id).done)

    ends = [history(store, job)[-2:] for job in (failed, canceled, stopped, late)]
    assert [[type for type, _, _ in end] for end in ends] == [
        ["image.failed", "job.failed"],
        ["image.canceled", "job.canceled"],
        ["image.canceled", "job.canceled"],
        ["image.canceled", "job.expired"],
    ]


def test_a_repeated_call_tells_nothing_twice(farm: Heard) -> None:
    store, order = farm.store, submission()
    job = store.submit(order).job
    store.submit(order)
    taken = claim(store)
    claim(store)
    finish(store, taken)
    finish(store, taken)

    types = [type for type, _, _ in history(store, job)]
    assert types == [
        "job.queued",
        "job.running",
        "image.running",
        "image.succeeded",
        "job.succeeded",
    ]


def test_events_after_one_are_the_later_ones_and_an_unknown_one_is_none(farm: Heard) -> None:
    store = farm.store
    job = store.submit(submission()).job
    finish(store, claim(store))
    events = all_of(store, job)

    for number, event in enumerate(events, 1):
        assert store.events(job.id, event.id) == events[number:]
    stranger = f"1-{int(events[0].at * 1000) - 1}"
    for unknown in (
        stranger,
        "9-1",
        "0-1",
        "-1",
        "x",
        "",
        "1",
        events[0].id + " ",
        "9" * 30 + "-1",
    ):
        assert store.events(job.id, unknown) is None
    assert store.events("job_nothing", None) == []


def test_the_pulse_says_how_far_jobs_are(farm: Heard) -> None:
    store = farm.store
    first, second = (store.submit(submission(seed=10 * k, n=2)).job for k in (1, 2))
    beat = store.pulse([first.id, "job_nothing", second.id])
    assert beat == {job.id: pulse_of(1, store.get(job.id)) for job in (first, second)}

    store.cancel(first.id)

    assert store.pulse([first.id, second.id]) == {
        first.id: Pulse(4, 0, None), second.id: pulse_of(1, store.get(second.id)),
    }  # fmt: skip
    assert store.pulse([]) == {}


def pulse_of(events: int, job: Job) -> Pulse:
    """What a look at a job of two queued images says."""
    first, last = sorted(job.images, key=lambda image: image.position or 0)
    assert last.position == (first.position or 0) + 1
    return Pulse(events, 2, first.position)


def test_events_are_told_as_they_are_stored_and_steps_only_pass(farm: Heard) -> None:
    store = farm.store
    job = store.submit(submission()).job
    with farm.listen(job.id) as said:
        taken = claim(store)
        for step in (2, 2, 1):
            store.renew({taken.token: (taken.render_id, step)}, 30.0)
        store.storing(taken.render_id, taken.token, 4)
        finish(store, taken)

    told = [json.loads(each) for each in said if each.startswith("{")]
    assert told == [
        {"type": "image.progress", "index": 0, "step": step, "steps": 4} for step in (2, 4)
    ]
    lines = [each.split(" ")[::2] for each in said if not each.startswith("{")]
    assert lines == [[str(n), e.type, *([str(e.attempt)] if e.index is not None else [])]
                     for n, e in enumerate(all_of(store, job), 1) if n > 1]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "strength"), [(10, 0.3), (10, 0.7), (7, 0.61), (4, 1e-30), (50, 1.0), (28, 0.6)]
)
def test_from_a_picture_the_steps_told_are_those_that_run(
    farm: Heard, steps: int, strength: float
) -> None:
    order = submission(steps=steps, strength=strength, init_image_sha256="a1" * 32)
    job = farm.store.submit(order).job
    with farm.listen(job.id) as said:
        taken = claim(farm.store)
        farm.store.renew({taken.token: (taken.render_id, 1)}, 30.0)

    [told] = [json.loads(each) for each in said if each.startswith("{")]
    assert told["steps"] == taken.spec.steps_to_run


def test_a_preview_reaches_those_who_ordered_so_many(farm: Heard) -> None:
    store = farm.store
    few = store.submit(_previewed(1)).job
    many = store.submit(_previewed(3)).job
    none = store.submit(_previewed(0)).job
    taken = claim(store)
    assert taken.previews == 3

    heard = {}
    for job in (few, many, none):
        with farm.listen(job.id) as said:
            store.preview(taken.render_id, taken.token, 0, b"first")
            store.preview(taken.render_id, taken.token, 2, b"third")
            store.preview(taken.render_id, "another", 0, b"zombie")
        heard[job.id] = [json.loads(each) for each in said]

    def shown(number: int, data: bytes) -> dict[str, object]:
        text = base64.b64encode(data).decode()
        return {
            "type": "image.preview",
            "index": 0,
            "partial_image_index": number,
            "b64_json": text,
        }

    assert heard == {
        few.id: [shown(0, b"first")],
        many.id: [shown(0, b"first"), shown(2, b"third")],
        none.id: [],
    }


def _previewed(count: int):  # type: ignore[no-untyped-def]
    order = submission(owner=f"owner-{count}")
    order.job.input["partial_images"] = count
    return order


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_numbers_grow_and_the_end_is_told_once(farm: Heard, seed: int) -> None:
    """Random work by clients, workers and chores; then everything is brought to an end."""
    store, dice = farm.store, random.Random(seed)
    jobs: list[Job] = []
    held: list[Claim] = []

    def order() -> None:
        jobs.append(store.submit(submission(seed=dice.randrange(8), n=dice.randint(1, 3))).job)

    def take() -> None:
        taken = store.claim(POOL, f"t{dice.random()}", dice.choice("abc"), "worker", 30.0)
        held.extend([taken] if taken else [])

    def end() -> None:
        if held:
            taken = held.pop(dice.randrange(len(held)))
            outcome = dice.choice([stored(taken.fingerprint, taken.token), NO, None])
            store.close(taken.render_id, taken.token, outcome)

    def lose() -> None:
        store.adopt(dice.choice("abc"))

    def cancel() -> None:
        job = store.get(dice.choice(jobs).id)
        if not job.done:
            store.cancel(job.id)

    order()
    for _ in range(60):
        dice.choice([order, take, take, end, end, lose, cancel])()
    while taken := store.claim(POOL, f"t{dice.random()}", "z", "worker", 30.0):
        finish(store, taken)
    for slot in "abc":
        store.adopt(slot)
    while taken := store.claim(POOL, f"t{dice.random()}", "z", "worker", 30.0):
        finish(store, taken)

    for job in jobs:
        events = all_of(store, job)
        assert [e.number for e in events] == list(range(1, len(events) + 1))
        assert [e.at for e in events] == sorted(e.at for e in events)
        assert [e.type in FINAL_EVENTS for e in events] == [False] * (len(events) - 1) + [True]
        assert events[0].type == "job.queued"
        now = store.get(job.id)
        assert (now.done, events[-1].type) == (True, f"job.{now.status}")
        ends = {
            e.index: e.type for e in events if e.index is not None and e.type != "image.running"
        }
        assert ends == {i.index: f"image.{i.status}" for i in now.images}
        attempts = [(e.index, e.attempt) for e in events if e.type == "image.running"]
        assert len(set(attempts)) == len(attempts)
