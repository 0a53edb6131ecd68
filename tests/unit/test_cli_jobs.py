"""`renderfarm submit|status|wait|cancel|list|events|result|dry-run` against the real API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from tests.api_kit import Farm, worker
from tests.loopback import serving

QUICK = ("--size", "64x64", "--steps", "4")
Run = Callable[..., Result]


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.fixture
def renderfarm(farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    with serving(farm.app) as url:

        def run(*arguments: str, stdin: str | None = None) -> Result:
            env = {"RENDERFARM_URL": url}
            return CliRunner().invoke(main, arguments, input=stdin, env=env, prog_name="renderfarm")

        yield run


def submit(renderfarm: Run, *options: str) -> str:
    ordered = renderfarm("submit", "a red fox", *QUICK, *options)
    assert ordered.exit_code == 0, ordered.output
    return ordered.stdout.split("\t")[0]


def test_submit_prints_id_and_address_and_does_not_wait(farm: Farm, renderfarm: Run) -> None:
    ordered = renderfarm("submit", "a red fox", *QUICK, "-n", "2", "--meta", "ticket=42")

    job_id, url = ordered.stdout.split()
    assert url.endswith(f"/jobs/{job_id}")
    job = farm.store.get(job_id)
    assert (job.input["n"], job.metadata) == (2, {"ticket": "42"})


def test_every_line_of_stdin_is_a_prompt(farm: Farm, renderfarm: Run) -> None:
    ordered = renderfarm("submit", "-", *QUICK, stdin="a red fox\n\n  a blue fox \n")

    ids = [line.split("\t")[0] for line in ordered.stdout.splitlines()]
    prompts = [farm.store.get(job_id).input["prompt"] for job_id in ids]
    assert prompts == ["a red fox", "a blue fox"]


def test_a_key_of_ones_own_makes_one_job(renderfarm: Run) -> None:
    first, second = (submit(renderfarm, "--idempotency-key", "k") for _ in range(2))
    both = renderfarm("submit", "-", "--idempotency-key", "k", stdin="a\nb\n")

    assert first == second
    assert both.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("submit", "a fox", "--meta", "nothing"), "NAME=VALUE"),
        (("submit", "a fox", "--init-image", "missing.png"), "does not exist"),
        (("submit", "-"), "no line"),
        (("status",), "JOB"),
        (("status", "job_1"), "no such job"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_wrong_usage(renderfarm: Run, arguments: list[str], told: str) -> None:
    result = renderfarm(*arguments, stdin="")

    assert (result.exit_code, told in result.stderr) == (2, True), result.stderr


def test_status_is_a_line_for_people_and_all_of_the_job_for_programs(
    farm: Farm, renderfarm: Run
) -> None:
    job_id = submit(renderfarm, "-n", "2")
    assert renderfarm("status", job_id).stdout == f"{job_id}\tqueued\t0/2\t0 before it\n"
    farm.render()
    farm.fail(message="the engine failed")

    told = renderfarm("status", job_id).stdout
    document = json.loads(renderfarm("status", job_id, "--json").stdout)

    assert told == f"{job_id}\tfailed\t2/2\tthe engine failed (render_error)\n"
    assert document["images"][0]["bytes"] > 0
    assert document["input"]["prompt"] == "a red fox"


def test_wait_ends_when_all_are_done_and_its_code_says_how(farm: Farm, renderfarm: Run) -> None:
    good, bad = submit(renderfarm), submit(renderfarm)
    late = renderfarm("wait", good, "--timeout", "0.05")
    farm.render()
    farm.fail()

    assert (late.exit_code, "still queued" in late.stderr) == (4, True)
    fine = renderfarm("wait", good)
    assert (fine.exit_code, fine.stdout) == (0, f"{good}\tsucceeded\t1/1\n")
    mixed = renderfarm("wait", good, bad)
    assert (mixed.exit_code, len(mixed.stdout.splitlines())) == (1, 2)
    assert f"{bad} failed" in mixed.stderr


def test_cancel_stops_what_waits_and_refuses_what_is_done(farm: Farm, renderfarm: Run) -> None:
    job_id = submit(renderfarm)
    done = submit(renderfarm, "--seed", "1")
    canceled = renderfarm("cancel", job_id)
    farm.render()

    assert (canceled.exit_code, canceled.stdout) == (0, f"{job_id}\tcanceled\t1/1\n")
    assert renderfarm("cancel", done).exit_code == 2
    assert renderfarm("wait", job_id).exit_code == 1


def test_result_saves_what_is_there(farm: Farm, renderfarm: Run) -> None:
    job_id = submit(renderfarm, "-n", "2", "--seed", "42")
    first = farm.render()
    half = renderfarm("result", job_id)
    second = farm.render()

    assert (half.exit_code, half.stdout) == (4, f"out/{job_id}-0-42.png\n")
    whole = renderfarm("result", job_id, "-o", "all")
    assert whole.exit_code == 0
    assert [Path(line).read_bytes() for line in whole.stdout.split()] == [first, second]
    piped = renderfarm("result", job_id, "--index", "1", "-o", "-")
    assert piped.stdout_bytes == second
    assert renderfarm("result", job_id, "-o", "-").exit_code == 2
    assert renderfarm("result", job_id, "--index", "2").exit_code == 2


def test_render_takes_prompts_from_stdin_and_waits_for_all(farm: Farm, renderfarm: Run) -> None:
    for prompt in ("a red fox", "a blue fox"):  # rendered before, so that nobody waits
        renderfarm("submit", prompt, *QUICK, "--seed", "7")
        farm.render()

    result = renderfarm("render", "-", *QUICK, "--seed", "7", stdin="a red fox\na blue fox\n")

    assert result.exit_code == 0, result.output
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [line[1:] for line in lines] == [["seed 7", "cached"]] * 2
    assert len({line[0] for line in lines}) == 2


def test_list_events_queue_and_dry_run_are_lines_for_people_and_json_for_programs(
    farm: Farm, renderfarm: Run
) -> None:
    job_id = submit(renderfarm, "--meta", "k=v", "--seed", "42")
    other = submit(renderfarm)
    farm.render()

    listed = renderfarm("list", "--meta", "k=v")
    assert listed.stdout.split("\t")[:3] == [job_id, "succeeded", "1/1"]
    assert listed.stdout.endswith("a red fox\n")
    found = [json.loads(line) for line in renderfarm("list", "--json").stdout.splitlines()]
    assert [job["id"] for job in found] == [other, job_id]

    told = renderfarm("events", job_id)
    assert (told.exit_code, told.stdout.split("\t")[0]) == (0, "job.snapshot")
    [event] = [
        json.loads(line) for line in renderfarm("events", job_id, "--json").stdout.splitlines()
    ]
    assert event["data"]["id"] == job_id

    cached = renderfarm("dry-run", "a red fox", *QUICK, "--seed", "42")
    assert cached.stdout.startswith("1 image, 1 cached; ")
    assert "done at once" in cached.stdout
    assert renderfarm("queue").stdout.startswith("tiny\t1 queued, 0 running; ")


def test_the_queue_says_when_a_new_order_starts_not_when_it_is_done(
    farm: Farm, renderfarm: Run
) -> None:
    farm.store.heartbeat(worker("ready"), 60.0)
    submit(renderfarm)
    claimed = farm.claim()
    assert claimed is not None
    farm.finish(claimed, device_s=20.0)  # now it is known how fast the queue goes

    assert ", a new order starts in about 0 s" in renderfarm("queue").stdout
