"""What a key allows, over HTTP: limits and their headers, priorities, sizes, audit, cache scope."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from tests.api_kit import TINY, Farm, worker

FOX = {"prompt": "a red fox", "width": 64, "height": 64}


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def farm(clock: Clock) -> Farm:
    return Farm(store=MemoryJobStore(clock))


def fox(seed: int, **more: Any) -> dict[str, Any]:
    return {**FOX, "seed": seed, **more}


def test_every_order_tells_what_is_left_of_the_minute(farm: Farm, clock: Clock) -> None:
    alice = farm.client(farm.key("alice", submits_per_min=3))

    answers = [alice.post("/jobs", json=fox(seed)) for seed in range(4)]
    refused = answers[3]

    assert [a.status_code for a in answers] == [202, 202, 202, 429]
    assert [a.headers["ratelimit"] for a in answers] == [
        '"submit";r=2;t=20', '"submit";r=1;t=40', '"submit";r=0;t=60', '"submit";r=0;t=60',
    ]  # fmt: skip
    assert {a.headers["ratelimit-policy"] for a in answers} == {'"submit";q=3;w=60'}
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    clock.now += int(refused.headers["retry-after"]) - 1.01
    assert alice.post("/jobs", json=fox(9)).status_code == 429
    clock.now += 1.01
    assert alice.post("/jobs", json=fox(9)).status_code == 202


def test_looking_is_free_and_tells_no_rate(farm: Farm) -> None:
    alice = farm.client(farm.key("alice", submits_per_min=1))
    job = alice.post("/jobs", json=fox(1)).json()

    for _ in range(5):
        answer = alice.get(f"/jobs/{job['id']}")
        assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)


def test_a_replay_is_free(farm: Farm) -> None:
    alice = farm.client(farm.key("alice", submits_per_min=1))

    first, again = (
        alice.post("/jobs", json=fox(1), headers={"Idempotency-Key": "k"}) for _ in range(2)
    )

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["ratelimit"] == first.headers["ratelimit"]


def test_two_keys_of_one_owner_share_what_is_queued(farm: Farm) -> None:
    first, second = (farm.client(farm.key("alice", max_queued=2)) for _ in range(2))
    first.post("/jobs", json=fox(1, n=2))

    refused = second.post("/jobs", json=fox(9))

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert refused.headers["retry-after"] == "60"  # nothing has left the queue so far
    assert farm.client(farm.key("bob", max_queued=2)).post("/jobs", json=fox(9)).status_code == 202


def test_the_wait_for_a_place_comes_from_the_pace_of_the_queue(farm: Farm) -> None:
    alice = farm.client(farm.key("alice", max_queued=10))
    alice.post("/jobs", json=fox(0, n=10))
    for _ in range(6):
        farm.render()
    alice.post("/jobs", json=fox(100, n=6))

    refused = alice.post("/jobs", json=fox(200))

    assert refused.headers["retry-after"] == "10"  # six in a minute left, one must


def test_an_order_that_could_never_fit_is_refused_for_good(farm: Farm) -> None:
    alice = farm.client(farm.key("alice", max_queued=2))

    refused = alice.post("/jobs", json=fox(1, n=3))

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert "your key allows 2 in the queue" in refused.json()["detail"]


def test_a_full_farm_is_503_and_tells_no_host(clock: Clock) -> None:
    farm = Farm(store=MemoryJobStore(clock, max_queue=1))
    farm.client().post("/jobs", json=fox(1))

    refused = farm.client().post("/jobs", json=fox(2))

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    assert refused.headers["retry-after"] == "60"


def test_a_farm_without_keys_limits_nobody(farm: Farm) -> None:
    answers = [farm.client().post("/jobs", json=fox(seed)) for seed in range(70)]

    assert {a.status_code for a in answers} == {202}
    assert "ratelimit" not in answers[0].headers


def test_keys_of_the_settings_have_the_farms_limits(clock: Clock) -> None:
    settings = Settings(api_keys="alice:alice-key", submits_per_min=1)
    alice = Farm(settings, MemoryJobStore(clock)).client("alice-key")

    assert [alice.post("/jobs", json=fox(s)).status_code for s in range(2)] == [202, 429]


@pytest.mark.parametrize(("most", "allowed"), [("low", {"low"}), ("normal", {"low", "normal"})])
def test_a_key_may_not_go_before_others_beyond_its_right(
    farm: Farm, most: str, allowed: set[str]
) -> None:
    alice = farm.client(farm.key("alice", max_priority=most))

    for priority in ("low", "normal", "high"):
        answer = alice.post("/jobs", json=fox(1, priority=priority))
        if priority in allowed:
            assert answer.status_code == 202
        else:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (403, "priority_not_allowed")
            assert error["param"] == "priority"


@pytest.mark.parametrize(
    ("grant", "order", "code", "field"),
    [
        ({"max_side_px": 64}, {"width": 80}, "invalid_size", "width"),
        ({"max_side_px": 64}, {"height": 80}, "invalid_size", "height"),
        ({"max_pixels": 64 * 64}, {"height": 80}, "invalid_size", "height"),
        ({"max_steps": 5}, {"steps": 6}, "invalid_value", "steps"),
        ({"max_steps": 5}, {}, "invalid_value", "steps"),  # the model's default is 20
    ],
)
def test_a_key_may_limit_size_and_steps(
    farm: Farm, grant: dict[str, int], order: dict[str, int], code: str, field: str
) -> None:
    alice = farm.client(farm.key("alice", **grant))

    refused = alice.post("/jobs", json=fox(1, **order))

    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, code, field)
    assert alice.post("/jobs", json=fox(1, steps=5)).status_code == 202


def test_an_admin_retries_for_others_beyond_their_limits(farm: Farm) -> None:
    alice = farm.client(farm.key("alice", submits_per_min=1))
    root = farm.client(farm.key("root", role="admin", submits_per_min=1))
    job = alice.post("/jobs", json=fox(1)).json()
    farm.fail()
    root.post("/jobs", json=fox(2))

    again = root.post(f"/jobs/{job['id']}/retry")

    assert (again.status_code, again.json()["owner"]) == (202, "alice")
    assert "ratelimit" not in again.headers


def test_a_weight_reaches_the_queue(farm: Farm) -> None:
    light, heavy = (farm.client(farm.key(f"w{weight}", weight=weight)) for weight in (1, 4))
    light.post("/jobs", json=fox(0, n=3))
    heavy.post("/jobs", json=fox(10, n=3))

    served = [farm.claim() for _ in range(4)]

    owners = [farm.store.get(taken.jobs[0]).owner for taken in served if taken]
    assert owners.count("w4") == 3


# ---------------------------------------------------------------------------------- audit log


@pytest.fixture
def root(farm: Farm):
    return farm.client(farm.key("root", role="admin"))


def acts(root) -> list[tuple[str, str, str | None]]:
    found = root.get("/audit").json()["data"]
    return [(act["what"], act["target"], act["owner"]) for act in found]


def test_what_an_admin_does_is_written_down(farm: Farm, root, caplog) -> None:
    farm.store.heartbeat(worker(), 60.0)
    job = farm.client(farm.key("alice")).post("/jobs", json=fox(1)).json()
    with caplog.at_level(logging.INFO, "api.audit"):
        root.post("/workers/worker-0/drain")
        root.post("/workers/worker-0/release")
        root.post(f"/jobs/{job['id']}/cancel", headers={"X-Request-Id": "req-7"})
        again = root.post(f"/jobs/{job['id']}/retry").json()

    assert acts(root) == [
        ("job.retried", again["id"], "alice"),
        ("job.canceled", job["id"], "alice"),
        ("worker.released", "worker-0", None),
        ("worker.drained", "worker-0", None),
    ]
    kept = root.get("/audit").json()["data"][1]
    assert (kept["actor"], kept["request_id"]) == ("root", "req-7")
    assert kept["key"].startswith("key_")
    lines = [r for r in caplog.records if r.name == "api.audit"]
    assert [(r.action, r.what) for r in lines][2] == ("audit", "job.canceled")


def test_poison_is_audited(farm: Farm, root) -> None:
    alice = farm.client(farm.key("alice"))
    for seed in (1, 2):
        alice.post("/jobs", json=fox(seed))
        for _ in range(3):
            taken = farm.claim()
            farm.store.release(taken.render_id, taken.token, lost=True)
    first, second = (each["render"] for each in root.get("/poison").json()["data"])

    again = root.post(f"/poison/{first}/retry").json()["data"][0]["id"]
    root.delete(f"/poison/{second}")

    assert acts(root) == [
        ("poison.dropped", second, None),
        ("poison.retried", first, "alice"),
        ("job.retried", again, "alice"),
    ]


def test_what_owners_do_to_their_own_is_not(farm: Farm, root) -> None:
    job = root.post("/jobs", json=fox(1)).json()
    root.post(f"/jobs/{job['id']}/cancel")

    assert acts(root) == []


def test_the_audit_log_is_read_page_by_page(farm: Farm, root) -> None:
    farm.store.heartbeat(worker(), 60.0)
    for _ in range(3):
        root.post("/workers/worker-0/drain")

    first = root.get("/audit?limit=2").json()
    rest = root.get(f"/audit?limit=2&after={first['data'][-1]['id']}").json()

    assert (len(first["data"]), first["has_more"]) == (2, True)
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    for query in ("limit=0", "limit=x", "after=x", "after=--", "after=99999999999999999999999"):
        assert root.get(f"/audit?{query}").status_code == 400


def test_an_act_stands_though_its_note_could_not_be_kept(farm: Farm, root, monkeypatch) -> None:
    def away(act: object) -> None:
        raise StoreUnavailable

    farm.store.heartbeat(worker(), 60.0)
    monkeypatch.setattr(farm.office.audit, "record", away)

    assert root.post("/workers/worker-0/drain").status_code == 200


# --------------------------------------------------------------------------------- cache scope


def test_owners_share_pictures_unless_the_farm_keeps_them_apart(clock: Clock) -> None:
    for scope, cached in (("shared", True), ("owner", False)):
        farm = Farm(Settings(cache_scope=scope), MemoryJobStore(clock))
        alice, bob = (farm.client(farm.key(owner)) for owner in ("alice", "bob"))
        alice.post("/jobs", json=fox(1))
        farm.render()

        answer = bob.post("/jobs", json=fox(1)).json()

        assert (scope, answer["cached"]) == (scope, cached)
        assert alice.post("/jobs", json=fox(1)).json()["cached"]


def test_kept_apart_owners_join_no_render_of_each_other(clock: Clock) -> None:
    farm = Farm(Settings(cache_scope="owner"), MemoryJobStore(clock))
    alice, bob = (farm.client(farm.key(owner)) for owner in ("alice", "bob"))

    jobs = [client.post("/jobs", json=fox(1)).json() for client in (alice, alice, bob)]

    assert farm.pending == 2
    prints = {job["images"][0]["fingerprint"] for job in jobs}
    assert len(prints) == 1  # what is shown names the pixels, whoever ordered them
    assert len(next(iter(prints))) == 64
    names = {farm.store.get(job["id"]).images[0].render.fingerprint for job in jobs}
    assert len(names) == 2


def test_a_model_is_named_by_its_pool_whatever_the_scope(clock: Clock) -> None:
    farm = Farm(Settings(cache_scope="owner"), MemoryJobStore(clock))
    farm.client().post("/jobs", json=fox(1))

    assert farm.claim().spec.pool == TINY.pool
