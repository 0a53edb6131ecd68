"""A baked folder draws the same pictures as what it was baked from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shared.errors import ModelError
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading import manifest
from worker.loading.bake import as_toml, bake
from worker.loading.deep import look_deep
from worker.loading.load import load
from worker.loading.parts import wanted_by
from worker.loading.preflight import preflight
from worker.loading.weights import counted


def entry(folder, **fields):
    known = {"min_side_px": 16, "max_sequence_length": 32, "width": 64, "height": 64}
    return ModelEntry(id="m.1", source=f"dir:{folder}", **(known | fields))


def drawn(served, settings):
    spec = RenderSpec(
        model=served.id, model_digest=served.digest, prompt="a red lighthouse", width=64, height=64,
        steps=2, guidance_scale=4.5, shift=3.0, seed=7,
    )  # fmt: skip
    return load(served, settings, "cpu").render(spec, lambda done, total: None).rgb


@pytest.fixture(scope="module")
def packed(tiny_folder, tmp_path_factory):
    """A folder in int8, with its T5 in nf4."""
    folder = tmp_path_factory.mktemp("packed") / "baked"
    return bake(entry(tiny_folder, precision="int8", t5="nf4"), tiny_folder, folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "bf16"},
        {"precision": "bf16", "t5": "off"},
        {"precision": "int8", "t5": "int8"},
        {"precision": "bf16", "t5": "nf4"},
        {"precision": "fp8-storage", "t5": "fp8"},
    ],
    ids=lambda fields: "-".join(fields.values()),
)
def test_a_baked_folder_draws_the_same_pictures(tiny_folder, tmp_path, fields):
    settings = Settings(model_cache_dir=tmp_path)
    served = entry(tiny_folder, **fields)

    baked = bake(served, tiny_folder, tmp_path / "baked", shard="300KB")

    assert drawn(baked, settings) == drawn(served, settings)
    assert baked.digest != served.digest  # another source is another digest
    assert preflight(tmp_path / "baked", wanted_by(baked)) == []
    assert look_deep(tmp_path / "baked", wanted_by(baked)) == ([], True)
    if baked.t5 != "off":  # as many numbers, however they are packed
        assert counted(tmp_path / "baked") == counted(tiny_folder)


def test_it_holds_its_dtype_its_parts_and_shards_of_the_size_asked(tiny_folder, tmp_path):
    from safetensors import safe_open

    bake(entry(tiny_folder, t5="off"), tiny_folder, tmp_path / "baked", shard="300KB")

    shards = sorted((tmp_path / "baked" / "transformer").glob("*.safetensors"))
    assert len(shards) > 1
    with safe_open(shards[0], framework="pt") as opened:
        assert {str(opened.get_tensor(key).dtype) for key in opened.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    assert not (tmp_path / "baked" / "text_encoder_3").exists()
    assert (tmp_path / "baked" / manifest.NAME).is_file()


def test_the_entry_that_it_prints_is_one_for_the_models_file(tiny_folder, tmp_path):
    served = entry(tiny_folder, title='a "name"', t5="off", warm_sizes=("64x64",), vae_tiling=True)

    table = tomllib.loads(as_toml(served))["models"]["m.1"]

    assert ModelEntry(id="m.1", **table) == served


def test_what_is_packed_is_smaller_and_not_packed_twice(tiny_folder, packed, monkeypatch):
    for part, share in (("transformer", 0.6), ("text_encoder_3", 0.35)):
        assert size_bytes(folder_of(packed) / part) < share * size_bytes(tiny_folder / part)
    for maker in ("transformer_config", "t5_config"):
        monkeypatch.setattr(f"worker.loading.read.{maker}", lambda _: pytest.fail("packed again"))
    assert drawn(packed, Settings())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"precision": "bf16", "t5": "nf4"}, "transformer in .* must say precision = 'int8'"),
        ({"precision": "int8"}, "text_encoder_3 in .* must say t5 = 'nf4'"),
    ],
)
def test_a_packed_folder_is_served_by_no_entry_that_says_otherwise(packed, fields, says):
    with pytest.raises(ModelError, match=says):
        load(entry(folder_of(packed), **fields), Settings(), "cpu")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"precision": "gguf", "gguf_file": "m.gguf"}, "in its final form already"),
        ({"engine": "onnx"}, "an ONNX export, which is in its final form already"),
        ({"precision": "nf4"}, "cannot be served here"),
        ({"precision": "fp8"}, "cannot be served here"),
    ],
)
def test_what_cannot_be_packed_here_is_refused_in_words(tiny_folder, tmp_path, fields, says):
    with pytest.raises(ModelError, match=says):
        bake(entry(tiny_folder, **fields), tiny_folder, tmp_path / "baked")


def folder_of(baked):
    return Path(baked.source.removeprefix("dir:"))


def size_bytes(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_a_folder_that_holds_something_is_left_alone(tiny_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ModelError, match="is not empty"):
        bake(entry(tiny_folder), tiny_folder, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_size_of_shards_that_means_nothing_is_one_sentence(tiny_folder, tmp_path):
    with pytest.raises(ModelError, match="cannot be written: "):
        bake(entry(tiny_folder), tiny_folder, tmp_path / "baked", shard="many")


def test_a_bake_that_fails_leaves_nothing_behind(tiny_folder, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(manifest, "write", fails)

    with pytest.raises(ModelError, match="baked cannot be written: the disk is full"):
        bake(entry(tiny_folder), tiny_folder, tmp_path / "baked")

    assert list(tmp_path.iterdir()) == []
