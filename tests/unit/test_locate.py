"""A model entry leads to a whole folder, or to one sentence that says what is wrong."""

from __future__ import annotations

import json
import shutil
import socket

import pytest
from pydantic import SecretStr

from shared.errors import ModelError, ModelUnavailable
from shared.models import ModelEntry
from shared.settings import Settings
from tests.servers.hub import fake_hub
from worker.loading.locate import PARTS, check, locate, tiny_options
from worker.loading.tiny import VERSION

WEIGHTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}


def entry(source, **fields):
    return ModelEntry(id="m", source=source, **fields)


def put(folder, name, text="{}"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.fixture
def model(tmp_path):
    """The skeleton of a diffusers folder: every file that a shallow look asks for."""
    folder = tmp_path / "model"
    listed = {part: ["library", "Class"] for part in PARTS}
    index = {"_class_name": "StableDiffusion3Pipeline", **listed, "image_encoder": [None, None]}
    put(folder, "model_index.json", json.dumps(index))
    for part in PARTS:
        put(folder, f"{part}/config.json")
        if part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
            put(folder, f"{part}/{WEIGHTS.get(part, 'model')}.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    put(folder, "text_encoder_3/model.safetensors.index.json", json.dumps({"weight_map": shards}))
    for shard in shards.values():
        put(folder, f"text_encoder_3/{shard}")
    return folder


@pytest.fixture
def settings(tmp_path):
    return Settings(model_cache_dir=tmp_path / "cache")


def test_a_folder_is_taken_as_it_lies(model, settings):
    said = []

    assert locate(entry(f"dir:{model}"), settings, lambda *step: said.append(step)) == model
    assert said == [("download", "skipped"), ("preflight", "running"), ("preflight", "done")]


@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("model_index.json", "not a diffusers model"),
        ("vae", "no folder vae"),
        ("transformer/config.json", "transformer/config.json is missing"),
        ("transformer/diffusion_pytorch_model.safetensors", "model.safetensors is missing"),
        (
            "text_encoder_3/model-00002-of-00002.safetensors",
            "00002-of-00002.safetensors is missing",
        ),
    ],
)
def test_what_is_missing_is_named(model, settings, lost, says):
    target = model / lost
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    said = []

    with pytest.raises(ModelError, match=says):
        locate(entry(f"dir:{model}"), settings, lambda *step: said.append(step))

    assert said[-1] == ("preflight", "failed")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ('{"_class_name": "FluxPipeline"}', "holds a FluxPipeline"),
        ('{"_class_name": "StableDiffusion3Pipeline"}', "lists no scheduler"),
    ],
)
def test_a_folder_of_something_else_is_refused(model, settings, index, says):
    put(model, "model_index.json", index)

    with pytest.raises(ModelError, match=says):
        locate(entry(f"dir:{model}"), settings)


def test_a_folder_that_is_not_there_is_named(tmp_path, settings):
    with pytest.raises(ModelError, match=r"no model folder .*nowhere"):
        locate(entry(f"dir:{tmp_path / 'nowhere'}"), settings)


def test_an_entry_without_t5_needs_no_t5_files(model, settings):
    shutil.rmtree(model / "text_encoder_3")
    shutil.rmtree(model / "tokenizer_3")

    assert locate(entry(f"dir:{model}", t5="off"), settings) == model
    with pytest.raises(ModelError, match="text_encoder_3"):
        locate(entry(f"dir:{model}"), settings)


@pytest.mark.parametrize(
    ("options", "meaning"),
    [
        ("", ("normal", 0)),
        ("size=small", ("small", 0)),
        ("seed=3,size=large", ("large", 3)),
    ],
)
def test_options_of_a_tiny_model_are_read(options, meaning):
    assert tiny_options(options) == meaning


@pytest.mark.parametrize("options", ["size=huge", "seed=x", "seed=-1", "colour=red", "small", ",="])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ModelError, match="a tiny model"):
        tiny_options(options)


def test_a_tiny_model_is_built_once_and_then_found(settings):
    folder = locate(entry("tiny:size=small,seed=5"), settings)
    built = (folder / "model_index.json").stat().st_mtime_ns

    assert folder == settings.cache_dir / f"tiny-small-5-v{VERSION}"
    assert locate(entry("tiny:size=small,seed=5"), settings) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == built


def test_a_download_takes_the_parts_and_none_of_the_doubles(model, settings):
    doubles = [
        "sd3.5_medium.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "text_encoder/model.fp16.safetensors",
        "README.md",
    ]
    for name in doubles:
        put(model, name)

    with fake_hub(model) as hub:
        folder = locate(entry("hf:farm/tiny"), at(hub, settings))

    have = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    wanted = {f.relative_to(model).as_posix() for f in model.rglob("*") if f.is_file()}
    assert have == hub.fetched == wanted - set(doubles)


def test_t5_is_not_downloaded_for_an_entry_without_it(model, settings):
    with fake_hub(model) as hub:
        locate(entry("hf:farm/tiny", t5="off"), at(hub, settings))

    assert not any("_3/" in name for name in hub.fetched)


def test_a_whole_local_copy_needs_no_network(model, settings):
    with fake_hub(model) as hub:
        settings = at(hub, settings)
        folder = locate(entry("hf:farm/tiny"), settings)

    assert locate(entry("hf:farm/tiny"), settings) == folder


def test_an_interrupted_download_is_completed(model, settings):
    with fake_hub(model) as hub:
        folder = locate(entry("hf:farm/tiny"), at(hub, settings))
        lost = folder / "vae" / "diffusion_pytorch_model.safetensors"
        lost.unlink()
        hub.asked.clear()

        assert locate(entry("hf:farm/tiny"), at(hub, settings)) == folder

    assert hub.fetched == {"vae/diffusion_pytorch_model.safetensors"}
    check(folder, PARTS)


def test_every_request_carries_the_token(model, settings):
    with fake_hub(model) as hub:
        settings = at(hub, settings).model_copy(update={"hf_token": SecretStr("hf_secret")})
        locate(entry("hf:farm/tiny"), settings)

    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize("why", ["gated", "private", "forbidden"])
def test_a_refused_download_says_where_the_licence_is_and_what_to_set(model, settings, why):
    with fake_hub(model) as hub:
        hub.refuse = why
        with pytest.raises(ModelUnavailable, match="accept the licence") as refusal:
            locate(entry("hf:farm/tiny"), at(hub, settings))

    assert f"{hub.url}/farm/tiny" in str(refusal.value)
    assert "FARM_HF_TOKEN" in str(refusal.value)


def test_a_hub_that_fails_is_not_taken_for_one_that_refuses(model, settings):
    with fake_hub(model) as hub:
        hub.refuse = "down"
        with pytest.raises(ModelUnavailable, match="500 Internal Server Error") as failure:
            locate(entry("hf:farm/tiny"), at(hub, settings))

    assert "licence" not in str(failure.value)


def test_a_revision_that_is_not_there_is_named(model, settings):
    with fake_hub(model) as hub, pytest.raises(ModelUnavailable, match="no revision 'v9'"):
        locate(entry("hf:farm/tiny", revision="v9"), at(hub, settings))


def test_no_network_is_said_in_these_words(settings):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://me:hunter2@127.0.0.1:{taken.getsockname()[1]}"
        nobody = settings.model_copy(update={"hf_endpoint": url})
        with pytest.raises(ModelUnavailable, match="no network") as failure:
            locate(entry("hf:farm/tiny"), nobody)

    assert "hunter2" not in str(failure.value)  # anybody may read it in /status


def test_a_name_that_is_no_repository_is_a_fault_of_the_entry(settings):
    with pytest.raises(ModelError, match="no repository name"):
        locate(entry("hf:not a repo//"), settings)


def at(hub, settings):
    return settings.model_copy(update={"hf_endpoint": hub.url})
