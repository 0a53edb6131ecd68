"""Workers as admins see them, over HTTP and on the command line."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from shared.settings import Settings
from shared.store.values import (
    Gpu,
    WorkerStatus,
)
from tests.api_kit import TINY, Farm, worker
from tests.loopback import serving
from tests.waiting import wait_until

KEYS = "alice:alice-key root:root-key:admin"
ROUTES = [
    (method, spelling + path)
    for spelling in ("", "/v1")
    for method, path in (
        ("GET", "/workers"), ("POST", "/workers/w/drain"), ("POST", "/workers/w/release")
    )
]  # fmt: skip
Run = Callable[..., Result]


@pytest.fixture
def farm() -> Farm:
    farm = Farm(Settings(api_keys=KEYS))
    farm.store.heartbeat(named("w"), 60.0)
    return farm


def named(name: str, state: str = "ready", **fields: object) -> WorkerStatus:
    return worker(state, **fields).model_copy(update={"name": name})


def drains(farm: Farm, name: str = "w") -> bool:
    return farm.store.heartbeat(named(name), 60.0).drain


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_workers_are_for_admins_only(farm: Farm, method: str, path: str) -> None:
    answers = {
        key: farm.client(key).request(method, path) for key in ("root-key", "alice-key", None)
    }

    assert {key: answer.status_code for key, answer in answers.items()} == {
        "root-key": 200, "alice-key": 403, None: 401,
    }  # fmt: skip
    assert answers["alice-key"].json()["error"]["code"] == "admin_only"


def test_a_worker_is_shown_with_all_that_is_known_of_it(farm: Farm) -> None:
    card = Gpu(name="card", memory_used_mb=1, memory_peak_mb=2, memory_total_mb=3)
    now = {
        "render": "r",
        "gpu": card,
        "device": "cuda:0",
        "placement": "text-offload",
        "load_s": 41.7,
    }
    farm.store.heartbeat(named("w", "busy", **now), 60.0)
    farm.store.died("w", "container_memory")
    farm.client("alice-key").post("/jobs", json={"prompt": "a red fox"})
    assert farm.store.claim(TINY.pool, "t", "w", "w", 60.0)

    (shown,) = farm.client("root-key").get("/workers").json()["data"]

    assert shown.pop("last_seen_at").endswith("Z")
    assert shown.pop("last_death")["cause"] == "container_memory"
    assert [step["name"] for step in shown.pop("steps")] == ["preflight", "load"]
    assert shown == {
        "id": "w", "object": "worker", "model": "tiny", "state": "busy", "note": None,
        "load_s": 41.7, "error": None, "engine": "diffusers", "placement": "text-offload",
        "device": "cuda:0", "gpu": card.model_dump(), "render": "r", "holding": 1,
    }  # fmt: skip


def test_an_order_to_drain_stands_until_it_is_released(farm: Farm) -> None:
    root = farm.client("root-key")

    assert root.post("/workers/w/drain").json()["id"] == "w"
    assert drains(farm)
    assert root.post("/workers/w/release").status_code == 200
    assert not drains(farm)


def test_a_worker_that_drained_and_left_can_be_released(farm: Farm) -> None:
    root = farm.client("root-key")
    root.post("/workers/w/drain")
    farm.store.leave("w")

    assert root.post("/workers/w/release").json() == {"id": "w"}
    assert root.post("/workers/w/release").json()["error"]["code"] == "worker_not_found"


def test_a_stranger_cannot_be_drained(farm: Farm) -> None:
    answer = farm.client("root-key").post("/workers/nobody/drain")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "worker_not_found")
    assert not drains(farm, "nobody")


def test_a_worker_out_of_service_is_not_ready_and_status_says_why(farm: Farm) -> None:
    client = farm.client("root-key")
    for state in ("quarantined", "draining"):
        farm.store.heartbeat(named("w", state, note="no model is loaded"), 60.0)

        seen = client.get("/status").json()

        assert (seen["ready"], seen["reason"]) == (
            False,
            f"a worker of tiny is {state}: no model is loaded",
        )
        assert client.get("/readyz?model=tiny").status_code == 503


def test_status_shows_what_a_worker_died_of(farm: Farm) -> None:
    farm.store.died("w", "device_fault")

    models = farm.client().get("/status").json()["models"]

    tiny = next(model for model in models if model["id"] == "tiny")
    assert tiny["workers"][0]["last_death"]["cause"] == "device_fault"


# ------------------------------------------------------------------------------ command line


@pytest.fixture
def run(farm: Farm) -> Iterator[Run]:
    with serving(farm.app) as url:

        def run(*words: str) -> Result:
            return CliRunner().invoke(main, ["workers", *words, "--url", url, "--key", "root-key"])

        yield run


def test_the_list_is_a_table_or_json(farm: Farm, run: Run) -> None:
    farm.store.died("w", "deaf")

    assert "deaf" in run("list").stdout
    (shown,) = json.loads(run("list", "--json").stdout)
    assert (shown["id"], shown["last_death"]["cause"]) == ("w", "deaf")


def test_drain_and_release_say_what_they_did(farm: Farm, run: Run) -> None:
    assert run("drain", "w").stdout == "w drains\n"
    assert drains(farm)
    assert run("release", "w").stdout == "w may work\n"
    assert not drains(farm)


def test_a_name_with_any_letters_is_one_name(farm: Farm, run: Run) -> None:
    odd = "a b/c?d#e"
    farm.store.heartbeat(named(odd), 60.0)

    assert run("drain", odd).exit_code == 0
    assert drains(farm, odd)


def test_an_unknown_name_is_one_line_and_code_2(run: Run) -> None:
    result = run("drain", "nobody")

    assert result.exit_code == 2
    assert "no worker of this name" in result.stderr


def test_drain_waits_until_nothing_is_held(farm: Farm, run: Run) -> None:
    farm.client("alice-key").post("/jobs", json={"prompt": "a red fox"})
    claim = farm.store.claim(TINY.pool, "t", "w", "w", 60.0)
    results: list[Result] = []
    waiting = threading.Thread(target=lambda: results.append(run("drain", "w", "--wait")))
    waiting.start()
    wait_until(lambda: drains(farm))

    farm.store.heartbeat(named("w", "draining"), 60.0)
    early = run("drain", "w", "--wait", "--timeout", "0")
    assert (early.exit_code, results) == (4, [])
    farm.store.release(claim.render_id, "t", lost=False)

    waiting.join(10)
    assert results[0].stdout == "w holds nothing\n"
