"""What a benchmark measures, in which order, and how its rows look: no process is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.bench_table import show
from cli.main import main
from shared.errors import SettingsError
from shared.models import ModelEntry
from worker.bench import run as running
from worker.bench.plan import AIMS, NAIVE, SHAPES, VARIANTS, Plan, Run, Subject, parse_variant
from worker.loading.card import Card
from worker.loading.refuse import reasons

FOLDER = Path("aside")


def plan(**changes: Any) -> Plan:
    fields = {
        "subjects": tuple(SHAPES.values()), "variants": ("final", NAIVE), "sides_px": (1024, 512),
        "device": "cpu", "repeats": 2,
    }  # fmt: skip
    return Plan(**{**fields, **changes})


def test_naive_comes_first_and_each_shape_is_made_once() -> None:
    runs = list(plan().runs(FOLDER))

    told = [(r.task, r.subject.model, r.px, r.variant) for r in runs]
    assert told[:4] == [
        ("ceilings", "large", 1024, ""),
        ("weights", "large", 1024, ""),
        ("variant", "large", 1024, "naive"),
        ("variant", "large", 1024, "final"),
    ]
    made = [r.subject.model for r in runs if r.task == "weights"]
    assert made == ["large", "medium"]  # Turbo has Large's shape
    assert sum(r.task == "variant" for r in runs) == 3 * 2 * 2


def test_a_variant_is_a_model_entry_with_other_fields() -> None:
    runs = plan(variants=("compile+fp8",), sides_px=(512,), ceilings=False).runs(FOLDER)

    entry = [r.entry for r in runs if r.task == "variant"][0]  # noqa: RUF015
    assert (entry["compile"], entry["precision"]) == ("regional", "fp8")
    assert (entry["width"], entry["steps"], entry["guidance_scale"]) == (512, 28, 3.5)
    assert entry["source"] == "dir:aside/large"


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_is_one_that_a_hopper_serves(name: str) -> None:
    entry = ModelEntry.model_validate({"id": "m", "source": "dir:m", **VARIANTS[name]})

    assert reasons(entry, Card("a Hopper", (9, 0), 140 * 10**9, 140 * 10**9, "13.0")) == []
    assert entry.preset == "exact"


def test_a_served_model_brings_its_weights_and_its_fields() -> None:
    served = {"id": "mine", "source": "dir:/models/mine", "t5": "off", "compile": "full"}

    subject = Subject("mine", "", 4, 0.0)

    runs = list(plan(served=served, variants=("engine",), subjects=(subject,)).runs(FOLDER))

    assert {r.task for r in runs} == {"ceilings", "variant"}
    assert (runs[-1].entry["t5"], runs[-1].entry["source"]) == ("off", "dir:/models/mine")


def test_a_run_reaches_its_process_whole() -> None:
    for run in plan().runs(FOLDER):
        assert Run.decode(run.encode()) == run


@pytest.mark.parametrize("name", VARIANTS)
def test_a_known_variant_is_its_fields(name: str) -> None:
    assert parse_variant(name) == (name, VARIANTS[name])


def test_an_own_variant_names_fields() -> None:
    name, fields = parse_variant("compile=regional,max_sequence_length=128")

    assert fields == {"compile": "regional", "max_sequence_length": 128}
    assert name == "compile=regional,max_sequence_length=128"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("quick", "there is no variant 'quick'; there are naive, engine"),
        ("compile=sometimes", "compile: Input should be"),
        ("colour=red", "colour: Extra inputs"),
    ],
)
def test_what_is_no_variant_is_told_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        parse_variant(text)


def test_aims_are_of_variants_and_models_that_there_are() -> None:
    for model, variant in AIMS:
        assert model in SHAPES
        assert variant in VARIANTS


def test_an_aim_stands_only_beside_its_own_size_and_never_beside_a_dry_run() -> None:
    def aims(**changes: Any) -> set[str]:
        return {run.aim for run in plan(**changes).runs(FOLDER)}

    assert ">= 600 TFLOP/s" in aims()
    assert aims(sides_px=(512,)) == aims(tiny=True) == {""}


def test_a_process_that_dies_is_a_row_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('the card fell off the bus')\n")
    broken.chmod(0o755)
    monkeypatch.setattr(running.sys, "executable", str(broken))

    said: list[str] = []

    rows = list(running.measured(plan(sides_px=(512,)), tmp_path, 60.0, said.append))

    told = {row["error"] for row in rows}
    assert told == {"its process ended with code 1: the card fell off the bus"}
    assert len(rows) == 1 + 3 * 2  # the ceilings, and each variant without its weights
    assert len(said) == 1 + 2, "a variant without its weights is not begun"


def test_when_the_time_is_over_nothing_more_begins(tmp_path: Path) -> None:
    rows = list(running.measured(plan(), tmp_path, 0.0, lambda text: None))

    assert len(rows) == 3 * 2 * 2
    assert {row["error"] for row in rows} == {"not begun: the time that was given is over"}


def row(variant: str, seconds: float, **fields: Any) -> dict[str, Any]:
    return {
        "model": "large", "px": 1024, "variant": variant, "tiny": False, "s_p50": seconds,
        "s_p95": seconds, "aim": ">= 600 TFLOP/s" if variant == "final" else "",
        "profile": {"device": "NVIDIA H200", "torch": "2.13.0"}, **fields,
    }  # fmt: skip


def test_the_table_compares_with_naive_and_says_what_was_not_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    refused = {"model": "large", "px": 1024, "variant": "flash3", "error": "not importable"}

    show([
        {"ceiling": "copy", "tb_per_s": 4.2, "error": None},
        {"ceiling": "product fp8", "error": "RuntimeError: none"},
        row(NAIVE, 6.0), row("final", 2.5, ceiling_share=0.8), refused,
    ])  # fmt: skip

    told = capsys.readouterr().out
    final = next(line for line in told.splitlines() if "│ final" in line)
    assert "2.40" in final
    assert "80%" in final
    assert ">= 600 TFLOP/s" in final
    assert "aim on an H200" in told
    assert "large 1024 px flash3: not importable" in told
    assert "4.2 TB/s" in told
    assert "RuntimeError: none" in told
    assert "device NVIDIA H200, torch 2.13.0" in told


def test_a_model_of_its_own_goes_without_a_shape() -> None:
    done = CliRunner().invoke(main, ["bench", "gpu", "--model", "tiny", "--shape", "large"])

    assert done.exit_code == 2
    assert "leave out --shape and --tiny" in done.output


def test_without_a_gpu_it_says_at_once_what_can_be_measured() -> None:
    done = CliRunner().invoke(main, ["bench", "gpu", "--device", "cpu"])

    assert done.exit_code == 2
    assert "needs a GPU" in done.output
    assert "--tiny --device cpu" in done.output
