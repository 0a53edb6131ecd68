"""`renderfarm plan`: the fewest GPUs that hold a promise, by options or by what a farm has seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.observed import TooLittleSeen, summed_up
from renderfarm_client import Job
from shared.catalog import load_catalog
from shared.planning import MOST_BUSY, fewest, needs
from shared.queueing import Crew, Load, waits
from shared.store.memory import MemoryJobStore
from tests.api_kit import Farm
from tests.loopback import serving

FEW: dict[str, int] = {"images": 2000, "runs": 2}
Run = Callable[..., Result]


@pytest.fixture
def renderfarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    for (
        name,
        value,
    ) in FEW.items():  # a command has no option for it: everybody gets the precise one
        monkeypatch.setitem(waits.__kwdefaults__, name, value)

    def run(*arguments: str, **env: str) -> Result:
        return CliRunner().invoke(main, ["plan", *arguments], env=env, prog_name="renderfarm")

    return run


# ------------------------------------------------------------------------------ the search


@pytest.mark.parametrize("p95_s", [0.0, 5.0, 60.0, 600.0])
@pytest.mark.parametrize("busy", [0.05, 1.7, 9.4])
def test_one_worker_fewer_would_break_the_promise(busy: float, p95_s: float) -> None:
    load = Load(jobs_per_hour=busy * 360, images=(1,), image_s=(10.0,))

    answer = fewest(load, Crew(1), p95_s, **FEW)

    assert answer.tried[answer.workers].p95_s <= p95_s
    fewer = answer.workers - 1
    if fewer > busy / MOST_BUSY:
        assert waits(load, Crew(fewer), **FEW).p95_s > p95_s


def test_a_shorter_wait_more_work_and_weaker_workers_never_need_fewer() -> None:
    load = Load(jobs_per_hour=600, images=(1, 4), image_s=(5.0, 20.0))
    crew = Crew(1, up_share=0.99)

    fast, slow = (fewest(load, crew, p95_s, **FEW).workers for p95_s in (10.0, 100.0))
    more = fewest(Load(1200, load.images, load.image_s), crew, 100.0, **FEW).workers
    weaker = fewest(load, Crew(1, up_share=0.8), 100.0, **FEW).workers

    assert slow < fast
    assert slow < more
    assert slow < weaker


def test_a_load_that_nothing_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        fewest(Load(1e9, (1,), (10.0,)), Crew(1), 30.0, **FEW)


def test_redis_storage_and_cost_follow_from_the_average_hour() -> None:
    mean = Load(jobs_per_hour=100, images=(2,), image_s=(10.0,), cached_share=0.25)

    found = needs(
        mean, 3, queued_images=50, retention_s=86_400, image_bytes=1e6, price_per_gpu_hour=2.0
    )

    assert found.redis_bytes == 2 * (50 * 2630 + 4800 * 3410)
    assert found.stored_bytes_per_day == 3600 * 1_000_000
    assert found.gpu_cost_per_image == pytest.approx(3 * 2.0 / 200)


# ----------------------------------------------------------------------------- the command


def test_the_answer_is_the_table_and_says_that_a_guess_is_one(renderfarm: Run) -> None:
    told = renderfarm(
        "--jobs-per-hour", "600", "--model", "sd3.5-large", "--price-per-gpu-hour", "2"
    )

    entry = load_catalog().find("sd3.5-large")
    seconds = entry.predict_seconds(width=1024, height=1024, steps=28, guidance_scale=3.5)
    assert told.exit_code == 0, told.output
    assert f"takes {seconds:.3g} s (a guess from the entry of sd3.5-large" in told.stdout
    assert told.stdout.count("<- enough") == 1
    assert "GPUs cost" in told.stdout


def test_json_has_the_same_and_options_count(renderfarm: Run) -> None:
    def planned(*more: str) -> dict[str, Any]:
        told = renderfarm("--jobs-per-hour", "300", "--seconds-per-image", "10", "--json", *more)
        assert told.exit_code == 0, told.output
        return dict(json.loads(told.stdout))

    plain = planned()
    assert plain["source"] == "as you say"
    assert plain["busy_gpus"] == pytest.approx(300 * 10 / 3600)
    assert plain["p95_s"] == plain["tried"][str(plain["gpus"])]["p95_s"] <= 30
    assert planned("--burst", "4")["gpus"] > plain["gpus"]
    assert planned("--images-per-job", "4")["gpus"] > plain["gpus"]
    assert planned("--cache-hit-share", "0.5")["busy_gpus"] == plain["busy_gpus"] / 2
    assert planned("--seconds-per-image", "30")["seconds_per_image"] == 20, "a mix"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 2, "--jobs-per-hour"),
        (["--jobs-per-hour", "10", "--size", "large"], 2, "1024x768"),
        (["--jobs-per-hour", "10", "--model", "nix"], 2, "no model 'nix'"),
        (["--jobs-per-hour", "10", "--cache-hit-share", "1"], 2, "0<=x<1"),
        (["--jobs-per-hour", "1e9"], 1, "10,000 workers"),
        (["--jobs-per-hour", "inf"], 2, "--jobs-per-hour"),
        (["--from-farm", "http://127.0.0.1:9", "--steps", "4"], 2, "--steps"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line(
    renderfarm: Run, options: list[str], code: int, says: str
) -> None:
    told = renderfarm(*options)

    assert told.exit_code == code
    assert says in told.stderr
    assert "Traceback" not in told.stderr


# ------------------------------------------------------------------------ a farm that runs


def job(at_s: float, images: int = 1, gpu_s: float = 8.0, **more: Any) -> Job:
    came = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=at_s)
    made = {
        "id": "job_x", "status": "succeeded", "done": True, "cached": False, "input": {},
        "created_at": came.isoformat(), "metrics": {"gpu_s": gpu_s * images},
        "images": [
            {"index": k, "seed": k, "status": "succeeded", "bytes": 1000, "progress": {"step": 4, "steps": 4}}
            for k in range(images)
        ],
    }  # fmt: skip
    return Job.model_validate({**made, **more})


def test_the_load_is_read_off_jobs() -> None:
    seen = summed_up([job(at_s=60.0 * k, images=1 + k % 2, gpu_s=5.0 + k % 2) for k in range(11)])

    assert seen.load.jobs_per_hour == pytest.approx(60)
    assert sorted(seen.load.images) == [1] * 6 + [2] * 5
    assert sorted(seen.load.image_s) == [5.0] * 6 + [6.0] * 10
    assert (seen.jobs, seen.span_s, seen.image_bytes) == (11, 600.0, 1000)


def test_cached_and_failed_jobs_count_as_orders_and_not_as_times() -> None:
    cached = [job(60.0 * k, gpu_s=0.0, cached=True) for k in range(5)]
    failed = [job(300.0 + 60 * k, gpu_s=99.0, status="failed") for k in range(5)]

    seen = summed_up([*cached, *failed, job(600.0), job(660.0)])

    assert seen.load.cached_share == pytest.approx(5 / 12)
    assert seen.load.image_s == (8.0, 8.0)


@pytest.mark.parametrize(
    "jobs", [[], [job(0.0)], [job(0.0)] * 20, [job(k, status="failed") for k in range(20)]]
)
def test_a_farm_that_has_seen_too_little_says_so(jobs: list[Job]) -> None:
    with pytest.raises(TooLittleSeen):
        summed_up(jobs)


class Clock:
    now = 1_767_225_600.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("owner", "jobs"), [("alice", 12), ("root", 24)])
def test_a_running_farm_is_asked_for_what_the_key_may_see(
    renderfarm: Run, owner: str, jobs: int
) -> None:
    clock = Clock()
    farm = Farm(store=MemoryJobStore(clock))
    keys = {
        "alice": farm.key("alice"),
        "bob": farm.key("bob"),
        "root": farm.key("root", role="admin"),
    }
    for _ in range(12):
        for each in ("alice", "bob"):
            order = {"prompt": "a red fox", "size": "64x64", "steps": 4}
            assert farm.client(keys[each]).post("/jobs", json=order).status_code == 202
            farm.render()
        clock.now += 60

    with serving(farm.app) as url:
        told = renderfarm("--from-farm", url, "--key", keys[owner], "--json", "--p95-wait-s", "1")

    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert f"latest {jobs} jobs" in found["source"]
    assert found["peak_jobs_per_hour"] == pytest.approx((jobs - 1) / 660 * 3600, rel=0.01)
    assert found["seconds_per_image"] == pytest.approx(0.8), (
        "what the worker said: text, denoise, decode"
    )


def test_a_farm_that_is_not_there_is_said_in_a_line(renderfarm: Run) -> None:
    told = renderfarm("--from-farm", "nowhere")

    assert told.exit_code == 2
    assert "http://" in told.stderr
