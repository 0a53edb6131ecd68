"""When a job will be done, as its client is told; and what an order would meet."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from shared.eta import Crew, eta_s, wait_s
from shared.results.local import LocalResults
from shared.settings import Settings
from shared.store.memory import MemoryJobStore
from tests.api_kit import TINY, Farm, worker

FOX = {"prompt": "a red fox", "steps": 4, "size": "64x64"}
LEDGER = ("jobs", "renders", "current", "flows", "vtime", "rates", "totals")
# What the entry predicts for one such image.
COST_S = TINY.predict_seconds(width=64, height=64, steps=4, guidance_scale=4.5)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_farm(states: tuple[str, ...] = ("busy",), rate: float | None = 2.0, **parts: Any) -> Farm:
    """Workers in these states, on a pool that is so much slower than predicted."""
    farm = Farm(store=MemoryJobStore(parts.pop("clock", None) or Clock()), **parts)
    for number, state in enumerate(states):
        seat = worker(state).model_copy(update={"name": f"worker-{number}"})
        farm.store.heartbeat(seat, 3600.0)
    if rate is not None:
        farm.client().post("/jobs", json={**FOX, "seed": 9999})
        taken = farm.claim()
        assert taken is not None
        farm.finish(taken, device_s=rate * COST_S)
    return farm


def order(farm: Farm, seed: int, **fields: Any) -> dict[str, Any]:
    response = farm.client().post("/jobs", json={**FOX, "seed": seed, **fields})
    assert response.status_code in (200, 202), response.text
    return dict(response.json())


def estimate(farm: Farm, **fields: Any) -> dict[str, Any]:
    response = farm.client().post("/jobs?dry_run=true", json={**FOX, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


# ---------------------------------------------------------------------------------------- the ETA


@pytest.mark.parametrize(
    ("position", "crew", "turns"),
    [
        (0, Crew(1, 1), 0.0),  # the worker is idle: at once
        (0, Crew(1, 0), 0.5),  # it is half way through another
        (3, Crew(1, 0), 3.5),
        (3, Crew(4, 4), 0.0),
        (4, Crew(4, 4), 0.125),  # the first of four to be done
        (40, Crew(4, 0), 10.125),
    ],
)
def test_a_place_in_the_queue_is_a_time(position: int, crew: Crew, turns: float) -> None:
    assert wait_s(position, 10.0, crew) == turns * 10.0


def test_nobody_knows_when_nobody_works() -> None:
    assert wait_s(0, 10.0, Crew()) is None


def test_a_queued_job_is_told_when_its_last_image_will_be_done() -> None:
    farm = a_farm(("busy", "busy"), rate=2.0)
    order(farm, 1)

    job = order(farm, 10, n=3)

    assert job["queue_position"] == 1
    assert job["eta_s"] == pytest.approx((3 + 0.5) * 2 * COST_S / 2 + 2 * COST_S, abs=0.06)


@pytest.mark.parametrize("states", [(), ("loading",), ("draining", "lost"), ("quarantined",)])
def test_without_a_worker_there_is_no_eta(states: tuple[str, ...]) -> None:
    farm = a_farm(states)

    assert order(farm, 1)["eta_s"] is None
    assert estimate(farm, seed=2)["eta_s"] is None


def test_without_a_measured_render_there_is_no_eta() -> None:
    farm = a_farm(rate=None)

    assert order(farm, 1)["eta_s"] is None
    assert estimate(farm, seed=2)["eta_s"] is None


def test_workers_of_another_pool_count_for_nothing() -> None:
    farm = a_farm(())
    other = worker("busy").model_copy(update={"pool": "other.123"})
    farm.store.heartbeat(other, 60.0)

    assert order(farm, 1)["eta_s"] is None


def test_an_image_that_has_begun_is_reckoned_by_its_prediction_then_by_its_pace() -> None:
    clock = Clock()
    farm = a_farm(rate=2.0, clock=clock)
    job = order(farm, 1)
    taken = farm.claim()
    assert taken is not None

    def left_s() -> float | None:
        return eta_s(farm.store.get(job["id"]), Crew(1, 0), clock.now)

    assert left_s() == round(2 * COST_S, 1)
    clock.now += 30.0
    farm.store.renew({taken.token: (taken.render_id, 3)}, 60.0)
    assert left_s() == 10.0, "three of four steps took 30 s"


# ------------------------------------------------------------------------------------- the dry run


def test_a_dry_run_tells_what_an_order_would_meet() -> None:
    farm = a_farm(("busy",), rate=2.0)
    order(farm, 5)

    told = estimate(farm, seed=10, n=2, num_inference_steps=4, model="lab/tiny")
    job = order(farm, 10, n=2)

    assert told["object"] == "estimate"
    assert told["input"] == job["input"]
    assert told["images"] == [
        {key: image[key] for key in ("index", "seed", "fingerprint", "cached")}
        for image in job["images"]
    ]
    assert told["gpu_s"] == pytest.approx(2 * 2 * COST_S, abs=0.001)
    assert (told["queue_position"], told["workers_ready"]) == (job["queue_position"], 1)
    assert told["eta_s"] == job["eta_s"]
    assert set(told) == {
        "object", "input", "images", "gpu_s", "queue_position", "eta_s", "workers_ready",
    }  # fmt: skip


def test_a_dry_run_stores_nothing() -> None:
    farm = a_farm()
    before = copy.deepcopy({name: getattr(farm.store._ledger, name) for name in LEDGER})

    estimate(farm, seed=1, n=3)
    farm.client().post("/jobs?dry_run=true", json=FOX, headers={"Idempotency-Key": "k"})

    assert {name: getattr(farm.store._ledger, name) for name in LEDGER} == before
    assert farm.pending == 0
    taken = farm.client().post("/jobs", json=FOX, headers={"Idempotency-Key": "k"})
    assert "idempotent-replayed" not in taken.headers


def test_a_dry_run_knows_what_the_cache_has() -> None:
    farm = a_farm()
    order(farm, 1)
    farm.render()

    told = estimate(farm, seed=1, n=2)
    whole = estimate(farm, seed=1)
    again = estimate(farm, seed=1, cache="bypass")

    assert [image["cached"] for image in told["images"]] == [True, False]
    assert (whole["gpu_s"], whole["queue_position"], whole["eta_s"]) == (0.0, None, 0.0)
    assert [image["cached"] for image in again["images"]] == [False]


def test_a_dry_run_finds_a_picture_that_only_the_storage_knows(tmp_path) -> None:
    results = LocalResults(tmp_path)
    first = Farm(results=results)
    order(first, 1)
    first.render()

    told = estimate(Farm(results=results), seed=1)  # a farm whose Redis was lost

    assert told["images"][0]["cached"]
    assert told["eta_s"] == 0.0


def test_an_image_that_another_job_waits_for_costs_nothing_more() -> None:
    farm = a_farm()
    order(farm, 1)

    told = estimate(farm, seed=1)

    assert (told["images"][0]["cached"], told["gpu_s"]) == (False, 0.0)
    assert told["queue_position"] == 0


@pytest.mark.parametrize(
    ("query", "body", "code", "name"),
    [
        ("dry_run=true", {"prompt": ""}, "invalid_value", "prompt"),
        ("dry_run=true", {"prompt": "x", "colour": "red"}, "unknown_field", "colour"),
        ("dry_run=true", {"prompt": "x", "model": "none"}, "model_not_found", "model"),
        ("dry_run=perhaps", FOX, "invalid_value", "dry_run"),
        ("dryrun=true", FOX, "unknown_field", "dryrun"),
    ],
)
def test_a_dry_run_checks_what_an_order_checks(
    query: str, body: dict[str, Any], code: str, name: str
) -> None:
    farm = Farm()

    response = farm.client().post(f"/v1/jobs?{query}", json=body)

    assert response.status_code == 400
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == (code, name)
    assert farm.pending == 0


def test_a_dry_run_meets_a_full_queue() -> None:
    farm = Farm(Settings(max_queue=2))
    order(farm, 1)

    response = farm.client().post("/jobs?dry_run=true", json={**FOX, "seed": 5, "n": 2})

    assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_full")


def test_a_dry_run_meets_the_limits_of_a_key() -> None:
    farm = Farm(Settings(api_keys="alice:a-key", max_queued=3))
    client = farm.client("a-key")
    client.post("/jobs", json={**FOX, "seed": 1, "n": 2})

    fits = client.post("/jobs?dry_run=true", json={**FOX, "seed": 5})
    over = client.post("/jobs?dry_run=true", json={**FOX, "seed": 5, "n": 2})
    stored = client.post("/jobs?dry_run=true", json={**FOX, "seed": 1, "n": 2})

    assert (fits.status_code, stored.status_code) == (200, 200)
    assert (over.status_code, over.json()["error"]["code"]) == (429, "quota_exceeded")
    assert client.get("/queue").json()["mine"] == {"queued": 2, "running": 0, "max_queued": 3}


def test_false_is_an_order() -> None:
    assert Farm().client().post("/jobs?dry_run=false", json=FOX).status_code == 202
