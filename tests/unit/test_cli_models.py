"""`renderfarm models`: the catalog on the screen, and a tiny model from the command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cli.main import main


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments, **environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, ["models", *map(str, arguments)])

    return run


def test_the_table_names_every_model_and_marks_the_default(run):
    shown = run("list").output

    assert "tiny (default)" in shown
    assert "hf:stabilityai/stable-diffusion-3.5-large-turbo" in shown
    assert "stabilityai/stable-diffusion-3.5-medium" in shown


def test_the_default_is_the_one_that_the_settings_name(run):
    assert "sd3.5-medium (default)" in run("list", FARM_DEFAULT_MODEL="sd3.5-medium").output


def test_json_has_all_that_an_entry_says(run):
    documents = json.loads(run("list", "--json").output)

    tiny = documents[0]
    assert (tiny["id"], tiny["default"], tiny["random_weights"]) == ("tiny", True, True)
    assert len(tiny["digest"]) == 64
    assert sum(document["default"] for document in documents) == 1


def test_a_models_file_that_cannot_be_read_is_one_sentence(run, tmp_path):
    done = run("list", FARM_MODELS_FILE=str(tmp_path / "none.toml"))

    assert done.exit_code == 1
    assert done.output.startswith("renderfarm: cannot read ")


def test_make_tiny_says_what_it_made_and_that_it_draws_noise(run, tmp_path):
    done = run("make-tiny", tmp_path / "m", "--size", "small", "--seed", 3)

    assert done.exit_code == 0
    assert (tmp_path / "m" / "model_index.json").is_file()
    assert "size small, seed 3" in done.output
    assert "MB" in done.output
    assert "noise" in done.output
    assert f'source = "dir:{tmp_path / "m"}"' in done.output


def test_make_tiny_leaves_a_foreign_folder_alone(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    done = run("make-tiny", tmp_path, "--size", "small")

    assert done.exit_code == 1
    assert "is in use" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_make_tiny_names_the_sizes_there_are(run, tmp_path):
    assert "small, normal, large" in run("make-tiny", tmp_path / "m", "--size", "huge").output
