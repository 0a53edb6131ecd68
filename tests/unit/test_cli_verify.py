"""`renderfarm verify JOB`: the farm renders again, and the command says what came of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from shared.jobs import Failure, Verdict
from tests.api_kit import Farm
from tests.loopback import serving
from tests.waiting import wait_until

JOB = "job_01JD8QZ4M3N5P7R9S1T3V5W7X9"
Run = Callable[..., Result]


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.fixture
def verify(farm: Farm) -> Iterator[Run]:
    with serving(farm.app) as url:

        def run(*arguments: str) -> Result:
            env = {"RENDERFARM_URL": url}
            words = ["verify", *arguments]
            return CliRunner().invoke(main, words, env=env, prog_name="renderfarm")

        yield run


@pytest.fixture
def job(farm: Farm) -> str:
    order = {"prompt": "a red fox", "size": "64x64", "steps": 4, "seed": 42, "n": 2}
    made = farm.client().post("/jobs", json=order).json()["id"]
    farm.render(), farm.render()
    return str(made)


def answered(farm: Farm, outcome: Verdict | Failure, ask: Callable[[], Result]) -> Result:
    """What `ask` gets from a farm whose worker comes to this."""

    def work() -> None:
        wait_until(lambda: farm.pending)
        taken = farm.claim()
        assert taken is not None
        farm.store.close(taken.render_id, taken.token, outcome)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        return ask()
    finally:
        worker.join()


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"identical": True, "max_abs_diff": 0, "psnr_db": 99.0}, 0, "bit-identical"),
        ({"max_abs_diff": 3, "psnr_db": 41.5}, 3, "same within 41.5 dB, at most 3 of 255 apart"),
        ({"max_abs_diff": 90, "psnr_db": 20.0}, 1, "different: 20.0 dB, at most 90 of 255 apart"),
        ({"max_abs_diff": 90}, 1, "different: at most 90 of 255 apart"),
        ({"max_abs_diff": 255}, 1, "different: it has another size than it says"),
    ],
    ids=["identical", "same", "different", "older worker", "another size"],
)
def test_the_words_and_codes_are_those_of_a_picture(
    farm: Farm, verify: Run, job: str, fields: dict[str, Any], code: int, words: str
) -> None:
    verdict = Verdict(**{"identical": False, "sha256": "f" * 64} | fields)

    done = answered(farm, verdict, lambda: verify(job, "--index", "1"))

    assert (done.exit_code, done.stdout) == (code, f"{job} image 1: {words}\n")


def test_json_names_the_job_that_compared(farm: Farm, verify: Run, job: str) -> None:
    verdict = Verdict(identical=False, max_abs_diff=3, psnr_db=39.0, sha256="f" * 64)
    loose = ("--json", "--tolerance-db", "35")

    told = json.loads(answered(farm, verdict, lambda: verify(job, *loose)).stdout)

    compared = farm.store.get(told.pop("verification"))
    assert compared.verifies == job
    assert told == {
        "job": job, "index": 0, "verdict": "same", "max_abs_diff": 3, "psnr_db": 39.0,
    }  # fmt: skip


def test_what_cannot_be_compared_is_exit_code_2_and_one_line(
    farm: Farm, verify: Run, job: str, tmp_path: Path
) -> None:
    gone = Failure(code="input_missing", message="the stored picture is gone")

    done = [
        verify(JOB),
        verify(job, "--index", "7"),
        verify(job, "--device", "cpu"),
        verify(str(tmp_path / "missing.png")),
        verify(job, "--url", "http://127.0.0.1:1"),
        answered(farm, gone, lambda: verify(job)),
    ]

    assert [each.exit_code for each in done] == [2] * 6
    whys = [
        "no longer remembered", "the job has 2 images", "not of a job", "neither a file nor a job", "127.0.0.1:1",
        "the stored picture is gone",
    ]  # fmt: skip
    for each, why in zip(done, whys, strict=True):
        assert why in each.stderr
