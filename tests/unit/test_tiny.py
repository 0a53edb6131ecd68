"""The tiny model: the true layout, the same weights from the same seed, and honest about itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from shared.errors import ModelError
from worker.loading import tiny
from worker.loading.tokenizers import clip_tokenizer, t5_tokenizer

BUILD = "import sys, pathlib; from worker.loading.tiny import build; build(pathlib.Path(sys.argv[1]), size='small')"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.build(tmp_path_factory.mktemp("models") / "tiny", size="small")


def weights(folder):
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*.safetensors")
    }


def test_it_loads_as_any_sd35_and_draws(model):
    pipe = StableDiffusion3Pipeline.from_pretrained(
        model, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)

    image = pipe(
        "a cat",
        width=64,
        height=48,
        num_inference_steps=2,
        max_sequence_length=16,
        output_type="np",
    ).images[0]

    assert image.shape == (48, 64, 3)
    assert image.std() > 0.01


def test_it_has_the_shape_of_medium(model):
    pipe = StableDiffusion3Pipeline.from_pretrained(model, local_files_only=True)

    transformer, vae = pipe.transformer.config, pipe.vae.config
    assert transformer.qk_norm == "rms_norm"
    assert transformer.dual_attention_layers
    assert (vae.latent_channels, vae.scaling_factor, vae.shift_factor) == (16, 1.5305, 0.0609)
    assert pipe.scheduler.config.shift == 3.0
    assert len(list((model / "text_encoder_3").glob("model-0000?-of-00002.safetensors"))) == 2
    assert (model / "tokenizer" / "merges.txt").is_file()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """The same model built by another process, and what that process printed."""
    folder = tmp_path_factory.mktemp("models") / "again"
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True)
    return folder, done.stdout + done.stderr


def test_the_same_seed_gives_the_same_bytes_in_another_process(model, elsewhere):
    assert weights(elsewhere[0]) == weights(model)


def test_a_build_prints_nothing(elsewhere):
    assert elsewhere[1] == b""


def test_another_seed_gives_other_weights(model, tmp_path):
    other = tiny.build(tmp_path / "other", size="small", seed=1)

    assert weights(other).keys() == weights(model).keys()
    assert not set(weights(other).values()) & set(weights(model).values())


def test_two_processes_may_build_one_folder_at_once(model, tmp_path):
    both = [
        subprocess.Popen([sys.executable, "-c", BUILD, str(tmp_path / "m")], stderr=subprocess.PIPE)
        for _ in range(2)
    ]

    for process in both:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()
    assert weights(tmp_path / "m") == weights(model)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_holds_it_already_is_left_alone(model):
    before = (model / "model_index.json").stat().st_mtime_ns

    assert tiny.build(model, size="small") == model
    assert (model / "model_index.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(("size", "seed"), [("small", 1), ("normal", 0)])
def test_another_tiny_model_is_never_overwritten(model, size, seed):
    with pytest.raises(ModelError, match="is in use"):
        tiny.build(model, size=size, seed=seed)


def test_a_folder_with_other_things_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ModelError, match="is in use"):
        tiny.build(tmp_path, size="small")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_size_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ModelError, match="small, normal, large"):
        tiny.build(tmp_path / "m", size="huge")


def test_the_folder_says_that_it_draws_noise(model):
    assert "noise" in (model / "README.txt").read_text()


def test_the_end_token_has_the_highest_id():
    clip = clip_tokenizer()

    assert clip.eos_token_id == len(clip) - 1


def test_common_words_are_one_token_and_others_fall_into_pieces():
    assert clip_tokenizer().tokenize("the sea") == ["the</w>", "sea</w>"]
    assert t5_tokenizer().tokenize("a cat") == ["▁a", "▁cat"]
    assert len(clip_tokenizer().tokenize("quokka")) > 1


def test_a_place_that_cannot_be_written_is_said_in_words(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ModelError, match="cannot be written"):
        tiny.build(tmp_path / "file" / "tiny", size="small")


def test_no_room_for_the_weights_leaves_no_half_model(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    ignored = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "

    done = subprocess.run(
        [sys.executable, "-c", limit + ignored + BUILD, str(tmp_path / "tiny")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "ModelError" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
