"""LoRAs as data: their tables in models.toml, which models take them, and `models add-lora`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from shared.catalog import load_catalog
from shared.errors import ModelError
from shared.models import ModelEntry
from tests.adapters import sha256_of, train
from worker.loading import tiny

HEAD = """
default = "m"
[models.m]
source = "tiny:size=small"
precision = "fp32"
[models.other]
source = "tiny:size=normal"
precision = "fp32"
[models.stiff]
source = "tiny:size=small"
compile = "full"
"""
INK = f"""
[loras.ink]
source = "hf:lab/ink/ink.safetensors"
sha256 = "{64 * "1"}"
models = ["m"]
title = "Ink drawings"
trigger = ["ink drawing"]
"""


def written(folder: Path, text: str) -> Path:
    (folder / "models.toml").write_text(text, "utf-8")
    return folder / "models.toml"


def test_the_catalog_has_them_by_name(tmp_path: Path) -> None:
    catalog = load_catalog(written(tmp_path, HEAD + INK))

    assert catalog.loras["ink"].trigger == ("ink drawing",)
    assert [one.name for one in catalog.loras_of(catalog.find("m"))] == ["ink"]
    assert catalog.loras_of(catalog.find("other")) == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('["m"]', '["n"]', "the LoRA ink is for n"),
        ('["m"]', "[]", "models"),
        ('sha256 = "1', 'sha256 = "X', "sha256"),
        ("hf:lab/ink/ink.safetensors", "https://example.org/ink", "source"),
        ("hf:lab/ink/ink.safetensors", "hf:lab/ink", "source"),
        ("loras.ink", 'loras."a b"', "name"),
        ("title =", "tilte =", "tilte"),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path: Path, old: str, new: str, why: str) -> None:
    assert old in INK

    with pytest.raises(ModelError, match=why):
        load_catalog(written(tmp_path, HEAD + INK.replace(old, new)))


def test_one_file_has_one_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="stands in the list twice"):
        load_catalog(written(tmp_path, HEAD + INK + INK.replace("loras.ink", "loras.oil")))


@pytest.mark.parametrize(
    ("fields", "takes"),
    [
        ({}, True),
        ({"precision": "int8"}, True),
        ({"precision": "gguf", "gguf_file": "q8.gguf"}, True),
        ({"compile": "regional"}, True),
        ({"placement": "model-offload"}, True),
        ({"compile": "full"}, False),
        ({"fuse_qkv": True}, False),
        ({"placement": "sequential-offload"}, False),
        ({"precision": "fp8-storage"}, False),
        ({"precision": "fp8"}, False),
        ({"precision": "nf4"}, False),
        ({"engine": "onnx", "source": "dir:x"}, False),
    ],
)
def test_how_a_model_is_held_decides_whether_it_takes_them(
    fields: dict[str, Any], takes: bool
) -> None:
    assert ModelEntry.model_validate({"id": "m", "source": "tiny:", **fields}).takes_loras is takes


def test_skip_layer_guidance_by_default_needs_layers() -> None:
    with pytest.raises(ValueError, match="needs skip_layers"):
        ModelEntry(id="m", source="tiny:", skip_layer_guidance=2.8)


@pytest.mark.parametrize(("steps", "acting"), [(4, 0), (28, 5), (40, 7), (50, 9), (1, 0)])
def test_skip_layer_guidance_acts_in_the_first_fifth(steps: int, acting: int) -> None:
    assert load_catalog().find("sd3.5-medium").skipping_steps(steps) == acting


# ------------------------------------------------------------------------------------ add-lora


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return train(folder, tiny.build(folder / "model", size="small"), seed=1, name="my ink")


def add(folder: Path, file: Path, *options: str, models: str = HEAD) -> Result:
    env = {"FARM_MODELS_FILE": str(written(folder, models)), "FARM_DATA_DIR": str(folder)}
    return CliRunner().invoke(main, ["models", "add-lora", str(file), *options], env=env)


def test_its_table_can_be_put_behind_models_toml(tmp_path: Path, file: Path) -> None:
    done = add(tmp_path, file)

    assert done.exit_code == 0, done.output
    assert "rank 4" in done.stderr
    catalog = load_catalog(written(tmp_path, HEAD + done.stdout))
    assert catalog.loras["my-ink"].sha256 == sha256_of(file)
    assert catalog.loras["my-ink"].source == f"file:{file}"
    assert catalog.loras["my-ink"].models == ("m",)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--model", "other"), "made for another model"),
        (("--model", "stiff"), "takes no LoRAs"),
        (("--model", "nobody"), "no model 'nobody'"),
        (("--name", "a b"), "letters, digits"),
        (("--name", "ink"), "already"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    tmp_path: Path, file: Path, options: tuple[str, ...], why: str
) -> None:
    done = add(tmp_path, file, *options, models=HEAD + INK)

    assert done.exit_code in (1, 2)
    assert why in done.stderr
    assert done.stdout == ""


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ink.pt").write_bytes(b"PK\x03\x04")

    done = add(tmp_path, tmp_path / "ink.pt")

    assert (done.exit_code, "no safetensors file" in done.stderr) == (1, True)


def test_the_same_file_is_not_listed_twice(tmp_path: Path, file: Path) -> None:
    listed = HEAD + INK.replace(64 * "1", sha256_of(file))

    done = add(tmp_path, file, models=listed)

    assert (done.exit_code, "as ink" in done.stderr) == (1, True)
