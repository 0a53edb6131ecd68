"""Model entries: the shipped catalog, its aliases, and what decides a digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.errors import InvalidOrder, ModelError
from shared.models import PIXEL_FIELDS, ModelEntry


def test_the_shipped_catalog_serves_tiny_and_knows_the_real_ones() -> None:
    catalog = load_catalog()

    assert catalog.default.id == "tiny"
    assert catalog.default.random_weights
    assert {"sd3.5-medium", "sd3.5-large", "sd3.5-large-turbo"} < set(catalog.entries)
    assert not catalog.find("sd3.5-large").random_weights


def test_an_alias_finds_its_entry() -> None:
    found = load_catalog().find("stabilityai/stable-diffusion-3.5-large")

    assert found.id == "sd3.5-large"


def test_an_unknown_model_is_named_and_the_known_ones_are_listed() -> None:
    with pytest.raises(InvalidOrder, match=r"no model 'nope'.*tiny"):
        load_catalog().find("nope")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "dir:elsewhere"), ("revision", "abc"), ("precision", "fp16"),
        ("t5", "off"), ("max_sequence_length", 128), ("gguf_file", "q4.gguf"), ("vae_tiling", True),
        ("skip_layers", (7, 8)), ("skip_layer_start", 0.1), ("skip_layer_stop", 0.3),
    ],
)  # fmt: skip
def test_what_decides_pixels_decides_the_pool(field: str, value: object) -> None:
    entry = load_catalog().find("sd3.5-medium")

    assert entry.model_copy(update={field: value}).pool != entry.pool


def test_tuning_does_not_empty_the_cache() -> None:
    entry = load_catalog().find("sd3.5-medium")
    tuned = {"placement": "model-offload", "compile": "full", "steps": 50, "aliases": ("x",)}

    assert entry.model_copy(update=tuned).digest == entry.digest
    assert set(PIXEL_FIELDS) <= set(ModelEntry.model_fields)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default = 'tiny'\n[models.tiny", "cannot read"),
        ("[models.tiny]\nsource = 'tiny:'", "has no 'default'"),
        ("default = 'x'\n[models.tiny]\nsource = 'tiny:'", "no model 'x'"),
        ("default = 'tiny'\n[models.tiny]\nsource = 'tiny:'\nprecison = 'fp32'", "precison"),
        ("default = 'tiny'\n[models.tiny]\nsource = 'ftp:x'", "source"),
        ("default = 'tiny'\nmodels = 3", "not a list of models"),
    ],
)
def test_a_bad_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(text)

    with pytest.raises(ModelError, match=message):
        load_catalog(file)


@pytest.mark.parametrize(
    "field", ["width = 1000", "height = 128", "width = 4096", "max_pixels = 65536", "steps = 101"]
)
def test_defaults_that_the_model_cannot_draw_are_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(f"default = 'a'\n[models.a]\nsource = 'tiny:'\n{field}\n")

    with pytest.raises(ModelError, match="default"):
        load_catalog(path)


def test_a_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_bytes("default = 'tiny'  # größer".encode("latin-1"))

    with pytest.raises(ModelError, match="cannot read"):
        load_catalog(path)


def test_predicted_seconds_grow_with_the_work() -> None:
    entry = load_catalog().find("sd3.5-large")
    base = {"width": 1024, "height": 1024, "steps": 28, "guidance_scale": 3.5}

    assert entry.predict_seconds(**base) > entry.predict_seconds(**{**base, "steps": 14})
    assert entry.predict_seconds(**base) > entry.predict_seconds(**{**base, "guidance_scale": 1})
    assert entry.predict_seconds(**base) == pytest.approx(
        2 * entry.predict_seconds(**{**base, "width": 512})
    )
