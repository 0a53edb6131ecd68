"""Over HTTP: how much waits, and how fast it goes."""

from __future__ import annotations

from typing import Any

import pytest

from shared.settings import Settings
from tests.api_kit import LARGE, TINY, Farm, worker

FOX = {"prompt": "a red fox", "steps": 4, "size": "64x64"}
KEYS = "alice:a-key bob:b-key root:r-key:admin"
COST_S = TINY.predict_seconds(width=64, height=64, steps=4, guidance_scale=4.5)


@pytest.fixture
def farm() -> Farm:
    return Farm(Settings(api_keys=KEYS))


def order(farm: Farm, key: str, seed: int, **fields: Any) -> str:
    answer = farm.client(key).post("/jobs", json={**FOX, "seed": seed, **fields})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def queue(farm: Farm, key: str = "a-key") -> dict[str, Any]:
    answer = farm.client(key).get("/queue")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_an_idle_farm_has_an_empty_queue(farm: Farm) -> None:
    shown = queue(farm)

    assert [model["model"] for model in shown["models"]] == ["tiny", "large"]
    assert shown["models"][0] == {
        "model": "tiny", "queued": 0, "running": 0, "storing": 0,
        "workers": {"ready": 0, "busy": 0, "loading": 0},
        "oldest_queued_s": None, "backlog_gpu_s": 0.0, "eta_s": None,
    }  # fmt: skip
    assert (shown["mine"]["queued"], shown["mine"]["running"]) == (0, 0)


def test_the_queue_of_each_model_is_shown_with_its_workers(farm: Farm) -> None:
    for number, (state, model) in enumerate(
        [("busy", TINY), ("busy", TINY), ("loading", TINY), ("ready", LARGE), ("lost", TINY)]
    ):
        seat = worker(state, model).model_copy(update={"name": f"worker-{number}"})
        farm.store.heartbeat(seat, 3600.0)
    order(farm, "a-key", 1)
    taken = farm.claim()
    assert taken is not None
    farm.finish(taken, device_s=10 * COST_S)
    order(farm, "a-key", 10, n=6)
    farm.claim()
    kept = farm.claim()
    assert kept is not None
    farm.store.storing(kept.render_id, kept.token, 4)

    tiny, large = queue(farm)["models"]

    assert (tiny["queued"], tiny["running"], tiny["storing"]) == (4, 1, 1)
    assert tiny["workers"] == {"ready": 0, "busy": 2, "loading": 1}
    assert tiny["oldest_queued_s"] >= 0
    assert tiny["backlog_gpu_s"] == pytest.approx(4 * 10 * COST_S, abs=0.06)
    assert tiny["eta_s"] == pytest.approx(3.5 * 10 * COST_S / 2, abs=0.06)
    assert large["workers"] == {"ready": 1, "busy": 0, "loading": 0}


def test_a_caller_sees_his_own_account_and_no_other(farm: Farm) -> None:
    order(farm, "a-key", 1, n=2)
    order(farm, "b-key", 10, n=3)
    farm.claim()

    alice, root = queue(farm, "a-key"), queue(farm, "r-key")

    assert (alice["mine"]["queued"], alice["mine"]["running"]) == (1, 1)
    assert (alice["owners"], alice["poison"]) == (None, None)
    assert root["owners"] == [
        {"owner": "alice", "queued": 1, "running": 1},
        {"owner": "bob", "queued": 3, "running": 0},
    ]
    assert (root["poison"], root["mine"]["queued"]) == (0, 0)


def test_an_admin_sees_how_much_poison_there_is(farm: Farm) -> None:
    order(farm, "a-key", 1)
    for _ in range(3):
        taken = farm.claim()
        assert taken is not None
        farm.store.release(taken.render_id, taken.token, lost=True)

    assert queue(farm, "r-key")["poison"] == 1


def test_both_spellings_and_head(farm: Farm) -> None:
    client = farm.client("a-key")

    assert client.get("/v1/queue").json() == client.get("/queue").json()
    assert client.head("/queue").status_code == 200
