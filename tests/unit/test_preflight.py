"""Each fault that a model folder can have, done to a true one, is named in a sentence of its own."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np
import pytest

from shared.models import ModelEntry
from worker.loading.headers import Damaged, shapes_of
from worker.loading.parts import Wanted, paths_of
from worker.loading.preflight import preflight

CLIP = "text_encoder/model.safetensors"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
SHARD = "text_encoder_3/model-00002-of-00002.safetensors"
INDEX = "text_encoder_3/model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def lose(name):
    def damage(model):
        target = model / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage


def write(name, text):
    return lambda model: (model / name).write_text(text)


def cut(name, size_bytes):
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:size_bytes])


def change(name, **fields):
    """Set fields of a JSON file; None takes one out."""

    def damage(model):
        document = json.loads((model / name).read_text()) | fields
        kept = {key: value for key, value in document.items() if value is not None}
        (model / name).write_text(json.dumps(kept))

    return damage


def rewrite(name, edit):
    """Save the tensors of a file again after `edit` took some out or changed them."""

    def damage(model):
        from safetensors.torch import load_file, save_file

        tensors = load_file(model / name)
        edit(tensors)
        save_file(tensors, model / name)

    return damage


def rename(old, new):
    return lambda model: (model / old).rename(model / new)


def both(*damages):
    def damage(model):
        for each in damages:
            each(model)

    return damage


def narrower(tensors):
    tensors["proj_out.bias"] = tensors["proj_out.bias"][:-1].clone()


def unlisted(model):
    """The shard that holds it is whole, but another one than the index says."""
    index = json.loads((model / INDEX).read_text())
    index["weight_map"]["ghost.weight"] = next(iter(index["weight_map"].values()))
    (model / INDEX).write_text(json.dumps(index))


FAULTS = {
    "the list of parts is missing": (lose("model_index.json"), "model_index.json is missing"),
    "the list is no JSON": (write("model_index.json", "{"), "model_index.json cannot be read"),
    "the list is another kind of JSON": (write("model_index.json", "[]"), "not a JSON object"),
    "another pipeline": (
        change("model_index.json", _class_name="FluxPipeline"),
        "names a FluxPipeline, not a StableDiffusion3Pipeline",
    ),
    "a part that is not listed": (
        change("model_index.json", vae=None), "model_index.json lists no vae",
    ),
    "T5 that is named CLIP": (
        change("model_index.json", text_encoder_3=["transformers", "CLIPTextModelWithProjection"]),
        "makes text_encoder_3 a CLIPTextModelWithProjection of transformers, not a T5EncoderModel",
    ),
    "T5 whose files are CLIP's": (
        change("text_encoder_3/config.json", model_type="clip_text_model"),
        "text_encoder_3/config.json describes a clip_text_model, not a t5",
    ),
    "a network of another class": (
        change("transformer/config.json", _class_name="FluxTransformer2DModel"),
        "describes a FluxTransformer2DModel, not a SD3Transformer2DModel",
    ),
    "a folder of weights is missing": (lose("transformer"), "there is no folder transformer"),
    "a folder of words is missing": (lose("tokenizer_2"), "there is no folder tokenizer_2"),
    "a configuration is missing": (lose("vae/config.json"), "vae/config.json is missing"),
    "the schedule is missing": (
        lose("scheduler/scheduler_config.json"), "scheduler/scheduler_config.json is missing",
    ),
    "weights are missing": (lose(CLIP), f"{CLIP} is missing"),
    "weights are pickles": (
        rename(CLIP, "text_encoder/pytorch_model.bin"), "pytorch_model.bin is a pickle",
    ),
    "a shard is missing": (lose(SHARD), f"{SHARD} is missing"),
    "a shard is cut": (cut(SHARD, 100_000), f"{SHARD} is cut short: it has 100000 bytes"),
    "weights are cut": (cut(TRANSFORMER, -1), f"{TRANSFORMER} is cut short"),
    "weights are cut in the header": (cut(CLIP, 500), "cut short inside its header"),
    "weights are empty": (write(CLIP, ""), f"{CLIP} has only 0 bytes"),
    "weights are a pointer": (write(CLIP, POINTER), f"{CLIP} is a Git LFS pointer"),
    "weights are something else": (write(CLIP, "<html>" * 100), "is no safetensors file"),
    "the index lists nothing": (write(INDEX, '{"weight_map": {}}'), f"{INDEX} lists no weights"),
    "the index lists what no shard has": (unlisted, "in none of its files, such as ghost.weight"),
    "a tensor is missing": (
        rewrite(TRANSFORMER, lambda tensors: tensors.pop("proj_out.weight")),
        "transformer has no weights for 1 of its tensors, such as proj_out.weight",
    ),
    "a tensor of another shape": (
        rewrite(TRANSFORMER, narrower), "proj_out.bias: [63] instead of [64]",
    ),
    "a configuration that makes no network": (
        change("transformer/config.json", num_layers="many"), "makes no SD3Transformer2DModel",
    ),
    "latents of another width": (
        change("vae/config.json", latent_channels=4),
        "in_channels of the transformer is 16, but latent_channels of the vae is 4",
    ),
    "text of another width": (
        change("text_encoder_3/config.json", d_model=128),
        "joint_attention_dim of the transformer is 64, but d_model of text_encoder_3 is 128",
    ),
    "CLIP of another width": (
        change("text_encoder/config.json", projection_dim=32),
        "pooled_projection_dim of the transformer is 56, but the projection_dim of both CLIP "
        "encoders is 64",
    ),
    "no shift of the latents": (
        change("vae/config.json", shift_factor=None), "vae/config.json has no shift_factor",
    ),
    "no configuration of the words": (
        lose("tokenizer/tokenizer_config.json"), "tokenizer/tokenizer_config.json is missing",
    ),
    "no length of a prompt": (
        change("tokenizer/tokenizer_config.json", model_max_length=10**30),
        "has no model_max_length that makes sense",
    ),
    "no words": (
        both(lose("tokenizer/vocab.json"), lose("tokenizer/merges.txt")),
        "tokenizer has no tokenizer.json, and no vocab.json and no merges.txt either",
    ),
    "words without merges": (
        write("tokenizer/merges.txt", ""), "no tokenizer.json, and no merges.txt either",
    ),
    "an empty vocabulary": (write("tokenizer/vocab.json", "{}"), "tokenizer/vocab.json with"),
    "damaged words": (write("tokenizer/vocab.json", "{'"), "vocab.json with merges.txt is damaged"),
    "no words of T5": (
        lose("tokenizer_3/tokenizer.json"), "tokenizer_3 has neither tokenizer.json nor spiece.model",
    ),
    "damaged words of T5": (
        write("tokenizer_3/tokenizer.json", '{"model"'), "tokenizer_3/tokenizer.json is damaged",
    ),
    "damaged pieces of T5": (
        both(
            lose("tokenizer_3/tokenizer.json"), write("tokenizer_3/spiece.model", "rubbish"),
        ),
        "tokenizer_3/spiece.model is damaged",
    ),
    "more words than embeddings": (
        change("text_encoder/config.json", vocab_size=10), "has embeddings for 10",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_the_fault_is_named(model, damage, says):
    damage(model)

    faults = preflight(model, Wanted())

    assert [fault for fault in faults if says in fault.message], faults
    assert len({fault.message for fault in faults}) == len(faults)


def test_a_whole_folder_has_no_fault(tiny_folder):
    assert preflight(tiny_folder, Wanted()) == []


def test_a_folder_that_is_not_there_is_one_fault(tmp_path):
    (fault,) = preflight(tmp_path / "nowhere", Wanted())

    assert (fault.part, fault.code) == ("model", "no_folder")


def test_all_faults_are_found_at_once(model):
    both(lose("tokenizer"), cut(CLIP, 100), lose("vae/config.json"))(model)

    found = {(fault.part, fault.code) for fault in preflight(model, Wanted())}

    assert found == {
        ("tokenizer", "missing_folder"),
        ("text_encoder", "bad_weights"),
        ("vae", "missing_file"),
    }


def test_t5_is_not_looked_for_where_it_is_not_read(model):
    both(lose("text_encoder_3"), lose("tokenizer_3"))(model)
    clip_only = tuple(part for part in Wanted().parts if not part.endswith("_3"))

    assert preflight(model, Wanted(clip_only)) == []


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_pieces_alone_want_two_packages(model, monkeypatch, package):
    from worker.loading import vocabularies

    rename("tokenizer_3/tokenizer.json", "tokenizer_3/spiece.model")(model)
    known = vocabularies.find_spec
    monkeypatch.setattr(
        vocabularies, "find_spec", lambda name: None if name == package else known(name)
    )

    (fault,) = preflight(model, Wanted())

    assert fault.code == "missing_package"
    assert package.split(".")[-1] in fault.message


def test_true_pieces_pass(model, tmp_path):
    """A sentencepiece model trained on the spot, in place of the tokenizer.json."""
    import sentencepiece

    words = tmp_path / "words.txt"
    words.write_text("a lighthouse on a cliff at dusk\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(tmp_path / "spiece"), vocab_size=25,
        minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (model / "tokenizer_3" / "tokenizer.json").unlink()
    shutil.copy(tmp_path / "spiece.model", model / "tokenizer_3")

    assert preflight(model, Wanted()) == []


def test_without_torch_names_and_shapes_are_not_compared(model, monkeypatch):
    from worker.loading import preflight as module

    FAULTS["a tensor is missing"][0](model)
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    assert preflight(model, Wanted()) == []


@pytest.mark.parametrize("header", [b"[]", b'{"a": 1}', b'{"a": {"data_offsets": [0]}}', b"{"])
def test_a_header_of_rubbish_is_damaged(tmp_path, header):
    file = tmp_path / "weights"
    file.write_bytes(struct.pack("<Q", len(header)) + header)

    with pytest.raises(Damaged, match="damaged header"):
        shapes_of(file)


@pytest.fixture
def gguf(tmp_path):
    """A true one: two tensors, in half precision."""
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "m.gguf", "sd3")
    for name in ("one", "two"):
        writer.add_tensor(name, np.ones((64, 64), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf"


def bare(model, gguf):
    return preflight(model, Wanted(bare=("transformer",)), gguf)


def test_a_gguf_file_takes_the_place_of_the_transformers_weights(model, gguf):
    lose(TRANSFORMER)(model)

    assert bare(model, gguf) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.unlink(), "nor a path to a file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "m.gguf is cut short"),
        (lambda file: file.write_bytes(file.read_bytes()[:60]), "m.gguf is cut short"),
        (lambda file: file.write_text(POINTER), "m.gguf is a Git LFS pointer"),
        (lambda file: file.write_text("rubbish"), "m.gguf is no GGUF file"),
    ],
)
def test_a_gguf_file_that_cannot_be_read_is_named(model, gguf, damage, says):
    damage(gguf)

    (fault,) = bare(model, gguf)

    assert says in fault.message


def test_the_gguf_file_of_an_entry_is_among_what_it_reads(model, gguf):
    entry = ModelEntry(id="m", source="tiny:", precision="gguf", gguf_file=str(gguf))

    paths = paths_of(entry, model)

    assert gguf in paths
    assert model / TRANSFORMER not in paths
    assert model / "transformer" / "config.json" in paths


def gguf_claiming(kind, length, rest):
    """A header of one field, an array of `kind` that says it is `length` long."""
    array = struct.pack("<Q1sI", 1, b"a", 9) + struct.pack("<IQ", kind, length)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + array + rest


@pytest.mark.parametrize(
    "data",
    [
        gguf_claiming(kind=0, length=2**50, rest=bytes(100)),  # bytes that are not there
        gguf_claiming(kind=8, length=2**50, rest=bytes(2**20)),  # empty strings, many
        gguf_claiming(kind=9, length=1, rest=struct.pack("<IQ", 9, 1) * 50_000),
    ],
    ids=["longer than the file", "long", "deep"],
)
def test_a_gguf_header_is_not_counted_as_far_as_it_says(model, tmp_path, data):
    (tmp_path / "m.gguf").write_bytes(data)

    assert "its header is damaged" in bare(model, tmp_path / "m.gguf")[0].message


def test_json_that_is_nested_without_end_is_damaged(model):
    nested = b"[" * 100_000
    (model / CLIP).write_bytes(struct.pack("<Q", len(nested)) + nested)
    (model / "vae" / "config.json").write_bytes(nested)

    faults = {fault.part: fault.message for fault in preflight(model, Wanted())}

    assert "damaged header" in faults["text_encoder"]
    assert "cannot be read" in faults["vae"]
