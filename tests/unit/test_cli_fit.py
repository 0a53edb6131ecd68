"""`renderfarm models fit`: the arithmetic of memory as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *arguments: CliRunner().invoke(main, ["models", "fit", *map(str, arguments)])


def line(shown: str, precision: str, t5: str) -> str:
    rows = (line for line in shown.splitlines() if line.startswith("│"))
    return next(r for r in rows if [c.strip() for c in r.split("│")[1:3]] == [precision, t5])


def test_the_table_says_what_the_card_holds_and_that_nothing_was_measured(run: Run) -> None:
    shown = run("sd3.5-large", "--memory-gb", 24).output

    assert "30.0 GB -" in line(shown, "bf16", "on")
    assert "17.6 GB fits" in line(shown, "bf16", "on")
    assert "24.6 GB fits" in line(shown, "fp8", "on")
    assert "not measured" in shown


def test_without_a_card_only_the_numbers_are_shown(run: Run) -> None:
    shown = run("sd3.5-medium").output

    assert "18.6 GB" in line(shown, "bf16", "on")
    assert "fits" not in shown


def test_json_has_bytes_by_placement(run: Run) -> None:
    document = json.loads(run("sd3.5-large", "--memory-gb", 12, "--json").output)

    assert document["memory_bytes"] == 12 * 2**30
    row = next(r for r in document["rows"] if (r["precision"], r["t5"]) == ("nf4", "off"))
    assert row["need_bytes"]["gpu"] < document["memory_bytes"]


@pytest.mark.parametrize(("name", "code"), [("tiny", 1), ("graphs", 1), ("nobody", 2)])
def test_a_model_that_cannot_be_counted_is_one_sentence(
    run: Run, name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, source = tmp_path / "models.toml", "dir:/models/stable-diffusion-3.5-medium"
    graphs = f'[models.graphs]\nengine = "onnx"\nprecision = "fp16"\nsource = "{source}"\n'
    models.write_text(f'default = "graphs"\n{graphs}[models.tiny]\nsource = "tiny:"\n')
    monkeypatch.setenv("FARM_MODELS_FILE", str(models))

    done = run(name)

    assert done.exit_code == code
    assert done.output.startswith("renderfarm: ")
    assert len(done.output.splitlines()) == 1
