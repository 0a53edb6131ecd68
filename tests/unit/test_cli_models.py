"""`renderfarm models`: the catalog on the screen, and a tiny model from the command line."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.main import main
from cli.models import listing
from cli.models.meter import Lines, gb
from tests.servers.hub import fake_hub
from tests.servers.modelscope import fake_modelscope


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
    assert "Stability AI Community License" in shown
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


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def farm(tmp_path, monkeypatch):
    """A models file with one model of each source; its cache is empty."""
    file = tmp_path / "models.toml"
    sources = {"hub": "hf:farm/tiny", "scope": "modelscope:farm/tiny", "made": "tiny:size=small"}
    tables = (f'[models.{name}]\nsource = "{source}"\n' for name, source in sources.items())
    file.write_text('default = "hub"\n' + "".join(tables))
    monkeypatch.setenv("FARM_MODELS_FILE", str(file))
    monkeypatch.setenv("FARM_MODEL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def listed(run):
    return {model["id"]: model for model in json.loads(run("list", "--json").output)}


def test_the_list_says_what_is_on_this_machine(run, farm, model):
    before = listed(run)["hub"]
    with fake_hub(model) as hub:
        pulled = run("pull", "hub", FARM_HF_ENDPOINT=hub.url)
    after = listed(run)["hub"]

    assert (before["folder"], before["on_disk_bytes"], before["whole"]) == (None, 0, False)
    assert pulled.exit_code == 0, pulled.output
    assert after["whole"]
    assert after["on_disk_bytes"] > 2_000_000
    assert after["folder"] in pulled.output
    assert re.search(r"2\.\d MB", run("list").output)


def test_the_list_tells_a_broken_copy_from_a_whole_one(run, farm, model):
    with fake_modelscope(model) as service:
        run("pull", "scope", FARM_MODELSCOPE_ENDPOINT=service.url)
    lost = next((farm / "cache").rglob("vae/*.safetensors"))
    lost.unlink()

    assert not listed(run)["scope"]["whole"]
    assert "not whole" in run("list").output


@pytest.mark.parametrize(
    ("memory_bytes", "medium"), [(80e9, "gpu"), (13e9, "model-offload"), (1e9, None)]
)
def test_the_list_says_how_the_card_holds_a_model(run, monkeypatch, memory_bytes, medium):
    monkeypatch.setattr(listing, "card_bytes", lambda: int(memory_bytes))

    models = listed(run)

    assert next(iter(models["sd3.5-medium"]["card_holds"]), None) == medium
    assert models["tiny"]["card_holds"] is None  # its files are not here
    assert (medium or "too small") in run("list").output


def test_pull_takes_a_source_that_no_entry_names(run, farm, model):
    with fake_modelscope(model) as service:
        done = run(
            "pull", "modelscope:farm/tiny", "--t5", "off", FARM_MODELSCOPE_ENDPOINT=service.url
        )

    assert done.exit_code == 0, done.output
    assert "whole" in done.output
    assert not any("_3/" in name for name in service.asked)


def test_what_was_pulled_is_checked_without_a_network(run, farm, model):
    with fake_hub(model) as hub:
        run("pull", "hub", FARM_HF_ENDPOINT=hub.url)

    checked = run("check", "hub", "--deep", FARM_HF_ENDPOINT=hub.url)
    again = run("pull", "hub", FARM_HF_ENDPOINT=hub.url)

    assert checked.exit_code == again.exit_code == 0
    assert "no fault found" in checked.output
    assert "no renderfarm.sha256" not in checked.output  # pull wrote it


@pytest.mark.parametrize("why", ["gated", "private", "absent", "down"])
def test_what_cannot_be_fetched_is_exit_code_3_and_no_secret(run, farm, model, why):
    with fake_hub(model) as hub:
        hub.refuse = why
        done = run("pull", "hub", FARM_HF_ENDPOINT=hub.url, FARM_HF_TOKEN="hf_secret")

    assert done.exit_code == 3
    assert done.output.startswith("renderfarm: ")
    assert done.output.count("\n") == 1
    assert "hf_secret" not in done.output


def test_a_download_that_is_damaged_at_its_source_is_exit_code_1(run, farm, model):
    (model / "vae" / "config.json").unlink()
    with fake_hub(model) as hub:
        done = run("pull", "hub", FARM_HF_ENDPOINT=hub.url)

    assert done.exit_code == 1
    assert "vae/config.json is missing" in done.output


@pytest.mark.parametrize("command", ["pull", "check", "prefetch"])
def test_a_name_that_means_nothing_is_exit_code_2(run, farm, command):
    done = run(command, "nobody")

    assert done.exit_code == 2
    assert "no model 'nobody'" in done.output


@pytest.mark.parametrize("command", ["check", "prefetch"])
def test_a_model_that_is_not_here_is_told_how_to_be(run, farm, command):
    done = run(command, "scope")

    assert done.exit_code == 1
    assert "renderfarm models pull scope" in done.output


def test_check_names_every_fault_and_counts_them(run, model):
    (model / "vae" / "config.json").unlink()
    shutil.rmtree(model / "tokenizer")

    done = run("check", model)

    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert "there is no folder tokenizer, which model_index.json lists" in lines
    assert "vae/config.json is missing" in lines
    assert lines[-1] == f"{model}: 2 faults"


def test_check_speaks_json(run, model):
    (model / "vae" / "config.json").unlink()

    done = run("check", model, "--json")

    assert done.exit_code == 1
    document = json.loads(done.output)
    assert document["folder"] == str(model)
    assert [fault["code"] for fault in document["faults"]] == ["missing_file"]


def test_the_canary_renders_what_the_headers_cannot_tell(run, model):
    from tests.integration.test_engine import silence_decoder

    silence_decoder(model)

    whole, canary = run("check", model), run("check", model, "--canary")

    assert whole.exit_code == 0
    assert canary.exit_code == 1
    assert "flat colour" in canary.output


def test_prefetch_says_how_much_and_how_fast(run, model):
    done = run("prefetch", model)

    assert done.exit_code == 0
    assert re.search(r"22 files, 2\.\d MB in \d+\.\d s, \d+\.\d\d GB/s", done.output)


def test_bake_prints_an_entry_that_serves_the_folder(run, farm, model):
    done = run("bake", model, farm / "baked")

    assert done.exit_code == 0, done.output
    assert '[models."baked"]' in done.output
    (farm / "models.toml").write_text('default = "baked"\n' + done.output)
    assert run("check", "baked", "--deep").exit_code == 0


def test_bake_refuses_in_one_line_what_it_cannot_save(run, farm, model):
    table = f'default = "g"\n[models.g]\nsource = "dir:{model}"\nprecision = "nf4"\n'
    (farm / "models.toml").write_text(table)

    done = run("bake", "g", farm / "baked")

    assert done.exit_code == 1
    assert done.output.startswith("renderfarm: g cannot be served here: ")


def test_where_no_terminal_is_progress_is_a_line_now_and_then(capsys):
    now = [0.0]
    lines = Lines("pull m", Console(width=200), clock=lambda: now[0])

    for seconds in range(26):
        now[0] = float(seconds)
        lines(1_000_000_000 + seconds * 50_000_000, 4_000_000_000)

    assert capsys.readouterr().out.splitlines() == [
        "renderfarm: pull m: 1.5 GB of 4.0 GB, 50.0 MB/s",
        "renderfarm: pull m: 2.0 GB of 4.0 GB, 50.0 MB/s",
    ]


def test_sizes_are_said_in_the_unit_that_fits():
    assert (gb(27_640_000_000), gb(3_140_000)) == ("27.6 GB", "3.1 MB")
