"""A dry run of the benchmark: every part on the CPU, on the tiny shapes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cli.main import main
from shared.flops import Mmdit
from worker.bench import child, made
from worker.bench.child import rows_of
from worker.bench.plan import NAIVE, SHAPES, Plan, Run
from worker.bench.watch import watched
from worker.loading.networks import Dimensions

TURBO = replace(SHAPES["turbo"], steps=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Each by its name, the weights made."""
    variants = (NAIVE, "engine", "precision=bf16", "placement=model-offload")
    plan = Plan((TURBO,), variants, (64,), "cpu", 2, tiny=True, ceilings=False)
    weights, *runs = plan.runs(tmp_path_factory.mktemp("bench"))
    assert list(rows_of(weights)) == []
    return {run.variant: run for run in runs}


@pytest.fixture(scope="module")
def naive(runs: dict[str, Run]) -> dict[str, Any]:
    return only(rows_of(runs[NAIVE]))


def only(rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
    (row,) = rows
    return row


def test_naive_is_measured_as_it_stands_in_the_documentation(naive: dict[str, Any]) -> None:
    assert naive["s_p50"] > 0
    assert naive["s_p95"] >= naive["s_p50"]
    assert naive["text_s"] + naive["denoise_s"] + naive["decode_s"] == pytest.approx(
        naive["s_p50"], rel=0.5
    )
    assert naive["profile"]["engine"] == "plain diffusers"
    assert naive["tiny"]


def test_the_engine_draws_what_naive_draws_from_the_same_noise(
    runs: dict[str, Run], naive: dict[str, Any]
) -> None:
    row = only(rows_of(runs["engine"]))

    assert row["latent_cosine"] == pytest.approx(1.0, abs=1e-6)
    assert row["psnr_db"] > 60
    assert row["tflop"] == naive["tflop"] > 0
    assert row["tflop_per_s"] == pytest.approx(row["tflop"] / row["denoise_s"])
    assert {"load", "warmup"} <= set(row["loading_s"])
    assert row["peak_gb"] is None
    assert json.loads(json.dumps(row)) == row


def test_a_variant_that_rounds_otherwise_is_seen_to_drift(
    runs: dict[str, Run], naive: dict[str, Any]
) -> None:
    row = only(rows_of(runs["precision=bf16"]))

    assert 0.9 < row["latent_cosine"] < 1 - 1e-9
    assert row["psnr_db"] < 99


def test_a_variant_that_this_machine_cannot_run_is_a_row_with_the_reason(
    runs: dict[str, Run],
) -> None:
    row = only(rows_of(runs["placement=model-offload"]))

    assert (row["variant"], row["model"]) == ("placement=model-offload", "turbo")
    assert "GPU" in row["error"]
    assert "s_p50" not in row


def test_what_naive_could_not_draw_leaves_the_others_without_drift(runs: dict[str, Run]) -> None:
    row = only(rows_of(replace(runs["engine"], px=80, entry={**runs["engine"].entry, "width": 80})))

    assert row["s_p50"] > 0
    assert "psnr_db" not in row


def test_ceilings_are_rates_or_reasons(runs: dict[str, Run]) -> None:
    rows = list(rows_of(replace(runs["engine"], task="ceilings")))

    rates = [row for row in rows if row.get("tflop_per_s") or row.get("tb_per_s")]
    assert {"product bf16 138 x 38 x 152", "attention large joint flash", "copy"} <= {
        row["ceiling"] for row in rates
    }
    assert all(row.get("error") for row in rows if row not in rates)  # this build has no cuDNN


@pytest.mark.parametrize(
    ("size", "parameters"),
    [(made.LARGE, 8.0566e9), (made.MEDIUM, 2.2432e9)],
    ids=["large", "medium"],
)
def test_the_shapes_are_the_published_ones(size: Dimensions, parameters: float) -> None:
    pipe = made.pipeline(size, "meta", torch.bfloat16)

    def count(name: str) -> int:
        return sum(weight.numel() for weight in getattr(pipe, name).parameters())

    assert count("transformer") == pytest.approx(parameters, rel=1e-4)
    assert count("text_encoder_3") == pytest.approx(4.7623e9, rel=1e-4)
    assert count("text_encoder_2") == pytest.approx(0.69466e9, rel=1e-4)
    assert count("text_encoder") == pytest.approx(0.12365e9, rel=1e-4)
    assert count("vae") == pytest.approx(0.08382e9, rel=1e-3)
    assert Mmdit.of(pipe.transformer.config).width in (2432, 1536)


def test_a_full_size_on_a_cpu_is_refused_before_anything_is_made(runs: dict[str, Run]) -> None:
    row = only(rows_of(replace(runs["engine"], task="weights", tiny=False)))

    assert "needs a GPU: add --tiny" in row["error"]


def test_the_watch_is_gone_when_it_is_done() -> None:
    from diffusers import AutoencoderKL

    before = AutoencoderKL.decode

    with watched(torch.device("cpu")):
        assert AutoencoderKL.decode is not before

    assert AutoencoderKL.decode is before


def test_a_process_is_told_what_to_do_and_leaves_its_rows_in_a_file(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    into, run = tmp_path / "rows.jsonl", runs["placement=model-offload"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(run.encode())))
    monkeypatch.setattr("sys.argv", ["child", str(into)])

    child.main()

    assert [json.loads(into.read_text())] == list(rows_of(run))


@pytest.mark.slow
def test_the_command_runs_them_in_processes_and_tells_the_rows(tmp_path: Path) -> None:
    into = tmp_path / "rows.jsonl"
    words = (
        "bench gpu --tiny --device cpu --shape turbo --px 64 --repeats 1 --no-ceilings "
        "--variant engine"
    )

    done = CliRunner().invoke(
        main,
        [*words.split(), "--json", str(into), "--folder", str(tmp_path)],
        env={"COLUMNS": "200"},
    )

    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in into.read_text().splitlines()]
    assert [row["variant"] for row in rows] == ["engine"]
    assert "a dry run, not a measurement" in done.stdout
    assert "renderfarm: turbo 64 px, 4 steps: engine" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]  # the weights are gone


def test_rows_are_lines_of_json_and_nothing_measured_is_code_1(tmp_path: Path) -> None:
    into = tmp_path / "rows.jsonl"
    words = "bench gpu --tiny --device cpu --px 64 --no-ceilings --shape turbo"
    impossible = "placement=model-offload"

    options = ["--variant", impossible, "--json", str(into)]
    done = CliRunner().invoke(main, [*words.split(), *options])

    assert done.exit_code == 1
    rows = [json.loads(line) for line in into.read_text().splitlines()]
    assert [row["variant"] for row in rows] == [impossible]
    assert all(row["error"] for row in rows)
    assert "No variant could be measured" in done.stderr
