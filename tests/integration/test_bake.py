"""A baked folder draws the same pictures as what it was baked from."""

from __future__ import annotations

import tomllib

import pytest

from shared.errors import ModelError
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading import manifest
from worker.loading.bake import as_toml, bake, refuse
from worker.loading.deep import look_deep
from worker.loading.load import load
from worker.loading.parts import wanted_by
from worker.loading.preflight import preflight


def entry(folder, **fields):
    known = {"min_side_px": 16, "max_sequence_length": 32, "width": 64, "height": 64}
    return ModelEntry(id="m.1", source=f"dir:{folder}", **(known | fields))


def drawn(served, settings):
    spec = RenderSpec(
        model=served.id, model_digest=served.digest, prompt="a red lighthouse", width=64, height=64,
        steps=2, guidance_scale=4.5, shift=3.0, seed=7,
    )  # fmt: skip
    return load(served, settings, "cpu").render(spec, lambda done, total: None).rgb


@pytest.mark.parametrize(
    "fields", [{"precision": "fp32"}, {"precision": "bf16"}, {"precision": "bf16", "t5": "off"}]
)
def test_a_baked_folder_draws_the_same_pictures(tiny_folder, tmp_path, fields):
    settings = Settings(model_cache_dir=tmp_path)
    served = entry(tiny_folder, **fields)

    baked = bake(served, tiny_folder, tmp_path / "baked", shard="300KB")

    assert drawn(baked, settings) == drawn(served, settings)
    assert baked.digest != served.digest  # another source is another digest
    assert preflight(tmp_path / "baked", wanted_by(baked)) == []
    assert look_deep(tmp_path / "baked", wanted_by(baked)) == ([], True)


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


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"precision": "gguf", "gguf_file": "m.gguf"}, "already in its final form"),
        ({"precision": "nf4"}, "a nf4 transformer is not saved"),
        ({"precision": "fp8"}, "a fp8 transformer is not saved"),
        ({"t5": "int8"}, "a T5 in int8 is not saved"),
    ],
)
def test_what_no_folder_can_hold_is_refused_in_words(fields, says):
    with pytest.raises(ModelError, match=says):
        refuse(entry("anywhere", **fields))


def test_a_folder_that_holds_something_is_left_alone(tiny_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ModelError, match="is not empty"):
        bake(entry(tiny_folder), tiny_folder, tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_bake_that_fails_leaves_nothing_behind(tiny_folder, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(manifest, "write", fails)

    with pytest.raises(OSError, match="full"):
        bake(entry(tiny_folder), tiny_folder, tmp_path / "baked")

    assert list(tmp_path.iterdir()) == []
