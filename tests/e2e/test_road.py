"""The road of one job on the real parts: HTTP, Redis, Celery, a leased worker, stored pictures."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from shared.images import read_info
from tests.e2e.farm import LONG, QUICK, RunningFarm
from tests.waiting import wait_until


def test_an_order_becomes_a_picture_of_the_size_asked_for(farm: RunningFarm) -> None:
    answer = farm.post({"prompt": "a lighthouse at dusk", "size": "96x64", "steps": 2, "seed": 1})

    assert answer.status_code == 202
    job = farm.wait(answer.json()["id"])
    assert (job["status"], job["images"][0]["attempt"]) == ("succeeded", 1)
    assert _size(farm.picture(job)) == (96, 64)


def test_a_picture_says_how_it_was_made_and_that_it_is_noise(farm: RunningFarm) -> None:
    job = farm.wait(farm.submit(seed=2, negative_prompt="fog")["id"])

    info = read_info(farm.picture(job))

    assert info["parameters"].startswith("a lighthouse at dusk\nNegative prompt: fog\nSteps: 2,")
    assert info["renderfarm"]["fingerprint"] == job["images"][0]["fingerprint"]
    assert (info["renderfarm"]["seed"], info["renderfarm"]["random_weights"]) == (2, True)
    assert "torch" in info["renderfarm"]["profile"]
    assert "anonymous" not in str(info)


def test_the_same_order_again_is_answered_from_the_cache(farm: RunningFarm) -> None:
    first = farm.wait(farm.submit(seed=100)["id"])
    claimed = farm.total("claimed")

    again = farm.post({**QUICK, "seed": 100})

    assert again.status_code == 200
    assert (again.json()["cached"], again.json()["done"]) == (True, True)
    assert farm.picture(again.json()) == farm.picture(first)
    assert farm.total("claimed") == claimed


def test_two_orders_at_once_are_one_render(farm: RunningFarm) -> None:
    claimed = farm.total("claimed")
    order = {**QUICK, "size": "256x256", "steps": 10, "seed": 200}
    jobs: list[dict[str, Any]] = []

    def post() -> None:
        jobs.append(farm.post(order).json())

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    done = [farm.wait(job["id"]) for job in jobs]
    assert {job["status"] for job in done} == {"succeeded"}
    assert len({job["images"][0]["sha256"] for job in done}) == 1
    assert farm.total("claimed") == claimed + 1


def test_image_k_of_a_batch_is_the_image_of_its_own_seed(farm: RunningFarm) -> None:
    batch = farm.wait(farm.submit(n=3, seed=7)["id"])

    single = farm.post({**QUICK, "n": 1, "seed": 8})

    assert [image["seed"] for image in batch["images"]] == [7, 8, 9]
    assert single.json()["cached"]
    assert farm.picture(single.json()) == farm.picture(batch, 1)
    assert len({image["sha256"] for image in batch["images"]}) == 3


def test_without_a_seed_the_cache_is_never_met_by_accident(farm: RunningFarm) -> None:
    seeds = {farm.submit()["input"]["seed"] for _ in range(3)}

    assert len(seeds) == 3


def test_bypass_renders_again(farm: RunningFarm) -> None:
    first = farm.wait(farm.submit(seed=300)["id"])
    claimed = farm.total("claimed")

    again = farm.wait(farm.submit(seed=300, cache="bypass")["id"])

    assert farm.total("claimed") == claimed + 1
    assert not again["cached"]
    assert again["images"][0]["fingerprint"] == first["images"][0]["fingerprint"]


def test_a_farm_that_has_rendered_knows_what_the_next_order_takes(farm: RunningFarm) -> None:
    farm.wait(farm.submit(seed=340)["id"])

    url = f"{farm.url}/jobs?dry_run=true"
    told = httpx2.post(url, json={**QUICK, "seed": 341, "n": 2}, timeout=30).json()
    queue = farm.get("/queue").json()

    assert [image["cached"] for image in told["images"]] == [False, False]
    assert 0 < told["gpu_s"] < 60
    assert told["eta_s"] is not None
    workers = queue["models"][0]["workers"]
    assert workers["ready"] + workers["busy"] == told["workers_ready"] >= 1
    assert queue["mine"]["queued"] == 0
    assert httpx2.post(url, json={**QUICK, "seed": 340}, timeout=30).json()["images"][0]["cached"]


def test_a_picture_is_verified_listed_and_deleted(farm: RunningFarm) -> None:
    job = farm.wait(farm.submit(seed=350)["id"])

    said = httpx2.post(f"{job['urls']['self']}/verify", json={"index": 0}, timeout=30)
    verified = farm.wait(said.json()["id"])

    assert said.status_code == 202
    assert verified["images"][0]["verify"] == {
        "identical": True, "max_abs_diff": 0, "psnr_db": 99.0, "sha256": job["images"][0]["sha256"],
    }  # fmt: skip
    listed = farm.get("/jobs?limit=2").json()["data"]
    assert [one["id"] for one in listed] == [verified["id"], job["id"]]
    for one in (verified, job):
        url = f"{one['urls']['self']}?purge=true"
        assert httpx2.delete(url, timeout=30).status_code == 204
    assert farm.get(f"/jobs/{job['id']}").status_code == 404
    assert farm.wait(farm.submit(seed=350)["id"])["images"][0]["cached"] is False


def test_progress_is_seen_and_a_cancel_stops_the_render(farm: RunningFarm) -> None:
    job = farm.submit(**LONG, seed=400)
    wait_until(lambda: farm.job(job["id"])["images"][0]["progress"]["step"] > 0)

    asked = farm.get(f"/jobs/{job['id']}")
    assert asked.json()["status"] == "running"
    answer = farm.cancel(job["id"])

    assert answer.json()["cancel_requested_at"]
    done = farm.wait(job["id"], limit_s=5)
    assert done["status"] == "canceled"
    assert done["images"][0]["progress"]["step"] < 100
    assert farm.wait(farm.submit(seed=401)["id"])["status"] == "succeeded"


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"steps": 2}, "prompt"),
        ({"prompt": "x" * 10_000_000}, "prompt"),
        ({**QUICK, "size": "17x0"}, "size"),
        ({**QUICK, "n": 0}, "n"),
        ({**QUICK, "steps": "many"}, "steps"),
        ({**QUICK, "colour": "red"}, "colour"),
        ({**QUICK, "model": "nope"}, "model"),
    ],
)
def test_bad_input_names_its_field_and_touches_nothing(
    farm: RunningFarm, order: dict[str, Any], field: str
) -> None:
    before = farm.metric("renderfarm_images_ordered_total")

    answer = farm.post(order)

    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert field in [one["pointer"].removeprefix("#/") for one in answer.json()["errors"]]
    assert farm.metric("renderfarm_images_ordered_total") == before


def test_the_command_line_client_saves_pictures(farm: RunningFarm, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "render", "a lighthouse at dusk", "--seed", "42",
         "--steps", "3", "--size", "64x64", "-n", "2", "-o", str(tmp_path), "--url", farm.url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    files = sorted(tmp_path.glob("*.png"))
    assert [_size(file.read_bytes()) for file in files] == [(64, 64)] * 2
    assert all(str(file) in done.stdout for file in files)
    assert "42" in done.stdout
    assert "43" in done.stdout


def test_one_grep_tells_the_life_of_a_job(farm: RunningFarm) -> None:
    job = farm.wait(farm.submit(seed=500)["id"])

    seen = [line for line in farm.logs("worker") if line.get("job") == job["id"]]

    assert [line["action"] for line in seen] == ["claimed", "stored"]
    assert all(line["render"] and line["attempt"] == 1 for line in seen)


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        picture.load()
        return picture.size
