"""A model entry leads to a whole folder, or to one sentence that says what is wrong."""

from __future__ import annotations

import shutil
import socket

import pytest
from pydantic import SecretStr

from shared.errors import ModelError, ModelUnavailable
from shared.models import ModelEntry
from shared.settings import Settings
from tests.servers.hub import fake_hub
from worker.loading.locate import locate, tiny_options
from worker.loading.parts import wanted_by
from worker.loading.tiny import VERSION

VAE = "vae/diffusion_pytorch_model.safetensors"


def entry(source, **fields):
    return ModelEntry(id="m", source=source, **fields)


def put(folder, name, text="{}"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


@pytest.fixture
def settings(tmp_path):
    return Settings(model_cache_dir=tmp_path / "cache")


def test_a_folder_is_taken_as_it_lies(model, settings):
    said = []

    assert locate(entry(f"dir:{model}"), settings, lambda *step: said.append(step)) == model
    assert said == [("download", "skipped"), ("preflight", "running"), ("preflight", "done")]


def test_a_damaged_folder_is_refused_before_it_is_loaded_with_all_that_is_wrong(model, settings):
    (model / VAE).unlink()
    shutil.rmtree(model / "tokenizer")
    said = []

    with pytest.raises(ModelError, match="cannot be served") as refusal:
        locate(entry(f"dir:{model}"), settings, lambda *step: said.append(step))

    assert f"{VAE} is missing" in str(refusal.value)
    assert "no folder tokenizer" in str(refusal.value)
    assert said[-1] == ("preflight", "failed")


def test_a_folder_that_is_not_there_is_named(tmp_path, settings):
    with pytest.raises(ModelError, match=r"no model folder .*nowhere"):
        locate(entry(f"dir:{tmp_path / 'nowhere'}"), settings)


def test_an_entry_without_t5_needs_no_t5_files(model, settings):
    shutil.rmtree(model / "text_encoder_3")
    shutil.rmtree(model / "tokenizer_3")

    assert locate(entry(f"dir:{model}", t5="off"), settings) == model
    with pytest.raises(ModelError, match="text_encoder_3"):
        locate(entry(f"dir:{model}"), settings)


@pytest.mark.parametrize("t5", ["on", "int8", "nf4", "fp8"])
def test_a_quantized_t5_is_read_from_the_same_files(t5):
    assert "text_encoder_3" in wanted_by(entry("tiny:", t5=t5)).parts


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
    assert have == hub.fetched == wanted - {*doubles, "README.txt"}


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
        (folder / VAE).unlink()
        hub.asked.clear()

        assert locate(entry("hf:farm/tiny"), at(hub, settings)) == folder

    assert hub.fetched == {VAE}


def test_a_file_that_was_damaged_on_disk_is_fetched_again(model, settings):
    with fake_hub(model) as hub:
        folder = locate(entry("hf:farm/tiny"), at(hub, settings))
        (folder / VAE).resolve().write_bytes((model / VAE).read_bytes()[:1000])
        hub.asked.clear()

        assert locate(entry("hf:farm/tiny"), at(hub, settings)) == folder

    assert hub.fetched == {VAE}
    assert (folder / VAE).read_bytes() == (model / VAE).read_bytes()


def test_a_download_that_is_cut_goes_on_where_it_ended(model, settings, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000
    )  # kept in such pieces
    with fake_hub(model) as hub:
        hub.cut = {"diffusion_pytorch_model.safetensors": 10_000}
        folder = locate(entry("hf:farm/tiny"), at(hub, settings))

    assert hub.ranges == ["bytes=10000-"]
    cut = "transformer/diffusion_pytorch_model.safetensors"
    assert (folder / cut).read_bytes() == (model / cut).read_bytes()
    assert (folder / VAE).read_bytes() == (model / VAE).read_bytes()


def test_progress_ends_at_all_bytes(model, settings):
    told = []
    with fake_hub(model) as hub:
        folder = locate(
            entry("hf:farm/tiny"), at(hub, settings), progress=lambda *b: told.append(b)
        )

    files = {file.resolve() for file in folder.rglob("*") if file.is_file()}  # twins lie there once
    size_bytes = sum(file.stat().st_size for file in files)
    assert told[-1] == (size_bytes, size_bytes)
    assert told == sorted(told)


def test_a_gguf_entry_fetches_its_file_and_no_other_weights_of_the_transformer(model, settings):
    (model / "sd-Q8_0.gguf").write_bytes(b"GGUF")
    quantized = entry("hf:farm/tiny", precision="gguf", gguf_file="sd-Q8_0.gguf")

    with fake_hub(model) as hub, pytest.raises(ModelError, match=r"Q8_0\.gguf is cut short"):
        locate(quantized, at(hub, settings))

    assert "sd-Q8_0.gguf" in hub.fetched
    assert {n for n in hub.fetched if n.startswith("transformer/")} == {"transformer/config.json"}


def test_a_repository_that_is_not_there_is_not_taken_for_a_gated_one(model, settings):
    with fake_hub(model) as hub:
        hub.refuse = "absent"
        with pytest.raises(ModelUnavailable, match="there is no model") as failure:
            locate(entry("hf:farm/tiny"), at(hub, settings))

    assert "licence" not in str(failure.value)


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


def test_a_token_does_not_follow_a_file_to_another_host(model, settings):
    known = settings.model_copy(update={"hf_token": SecretStr("hf_secret")})

    with fake_hub(model) as hub, fake_hub(model) as storage:
        hub.elsewhere = storage.url
        folder = locate(entry("hf:farm/tiny"), at(hub, known))

    assert (folder / "model_index.json").is_file()
    assert hub.tokens == {"Bearer hf_secret"}
    assert (storage.tokens, bool(storage.fetched)) == ({None}, True)


def test_a_mirror_is_not_told_of_this_machines_login(model, settings, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_machine")

    with fake_hub(model) as hub:
        locate(entry("hf:farm/tiny"), at(hub, settings))

    assert hub.tokens == {None}
