"""A look at a model folder before it is loaded: all faults at once, from JSON and headers alone."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from shared.errors import ModelError
from worker.loading.findings import Fault, Findings
from worker.loading.headers import look_at_gguf, look_at_weights
from worker.loading.parts import Wanted
from worker.loading.vocabularies import compare_words, look_at_tokenizer

PIPELINE = "StableDiffusion3Pipeline"
CLIP, CLIP_WORDS = "CLIPTextModelWithProjection", ("CLIPTokenizer", "CLIPTokenizerFast")
# By part: the library and the classes that SD3.5 is made of.
CLASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "scheduler": ("diffusers", ("FlowMatchEulerDiscreteScheduler",)),
    "transformer": ("diffusers", ("SD3Transformer2DModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", (CLIP,)),
    "text_encoder_2": ("transformers", (CLIP,)),
    "text_encoder_3": ("transformers", ("T5EncoderModel",)),
    "tokenizer": ("transformers", CLIP_WORDS),
    "tokenizer_2": ("transformers", CLIP_WORDS),
    "tokenizer_3": ("transformers", ("T5Tokenizer", "T5TokenizerFast")),
}
_ARCHITECTURES = {
    "text_encoder": "clip_text_model",
    "text_encoder_2": "clip_text_model",
    "text_encoder_3": "t5",
}


def preflight(
    folder: Path, wanted: Wanted, gguf: Path | None = None, *, shapes: bool = True
) -> list[Fault]:
    """Every fault of the folder for an entry that reads `wanted`; none: it can be loaded.

    Reads no weights, so bit rot and NaN stay unseen: see `deep`. `shapes`: build the networks without
    memory, and compare the names and shapes of their tensors; never where torch is not installed.
    """
    found = Findings(folder)
    if not folder.is_dir():
        found.add("model", "no_folder", f"there is no model folder {folder}")
        return found.faults
    listed = found.json("model_index.json")
    if found.faults:
        return found.faults
    kind = listed.get("_class_name")
    if kind != PIPELINE:
        found.add("model", "wrong_pipeline", f"model_index.json names a {kind}, not a {PIPELINE}")
        return found.faults
    for part in wanted.parts:
        if _is_listed(found, part, listed):
            _look_at(found, part, bare=part in wanted.bare)
    if gguf is not None:
        look_at_gguf(found, gguf)
    if shapes and find_spec("torch"):
        _compare_shapes(found)
    _compare_parts(found)
    return found.faults


def check(folder: Path, wanted: Wanted, gguf: Path | None = None) -> None:
    """Raises ModelError with every fault there is."""
    faults = preflight(folder, wanted, gguf)
    if faults:
        said = "; ".join(fault.message for fault in faults)
        raise ModelError(f"{folder} cannot be served: {said}")


def _is_listed(found: Findings, part: str, listed: dict[str, Any]) -> bool:
    """Whether the part is there, and made by the classes that SD3.5 has."""
    library, classes = CLASSES[part]
    entry = listed.get(part)
    if not isinstance(entry, list) or not any(entry):
        found.add(part, "not_listed", f"model_index.json lists no {part}")
    elif entry[0] != library or entry[1] not in classes:
        said = f"model_index.json makes {part} a {entry[1]} of {entry[0]}, not a {classes[0]}"
        found.add(part, "wrong_class", said)
    elif not (found.folder / part).is_dir():
        said = f"there is no folder {part}, which model_index.json lists"
        found.add(part, "missing_folder", said)
    else:
        return True
    return False


def _look_at(found: Findings, part: str, *, bare: bool) -> None:
    if part.startswith("tokenizer"):
        found.words[part] = look_at_tokenizer(found, part)
        return
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    found.configs[part] = config = found.json(f"{part}/{name}")
    wanted = _ARCHITECTURES.get(part) or CLASSES[part][1][0]
    said = config.get("model_type" if part in _ARCHITECTURES else "_class_name")
    if config and said != wanted:
        found.add(part, "wrong_class", f"{part}/{name} describes a {said}, not a {wanted}")
    if part != "scheduler" and not bare:
        stem = "diffusion_pytorch_model" if CLASSES[part][0] == "diffusers" else "model"
        found.tensors[part] = look_at_weights(found, part, stem)


def _compare_shapes(found: Findings) -> None:
    from worker.loading.quiet import quiet_libraries

    quiet_libraries()
    from worker.loading.shapes import compare_shapes

    for part, tensors in found.tensors.items():
        if not found.wrong(part):
            library, classes = CLASSES[part]
            compare_shapes(found, part, (library, classes[0]), found.configs[part], tensors)


def _compare_parts(found: Findings) -> None:
    """What the parts must agree on."""

    def of(part: str, name: str) -> Any:
        return found.configs.get(part, {}).get(name)

    def same(name: str, value: Any, other: str, wanted: Any) -> None:
        if value is not None and wanted is not None and value != wanted:
            said = f"{name} is {value}, but {other} is {wanted}: the parts are of different models"
            found.add("model", "dimensions", said)

    same(
        "in_channels of the transformer", of("transformer", "in_channels"),
        "latent_channels of the vae", of("vae", "latent_channels"),
    )  # fmt: skip
    same(
        "joint_attention_dim of the transformer", of("transformer", "joint_attention_dim"),
        "d_model of text_encoder_3", of("text_encoder_3", "d_model"),
    )  # fmt: skip
    widths = [of(part, "projection_dim") for part in ("text_encoder", "text_encoder_2")]
    same(
        "pooled_projection_dim of the transformer", of("transformer", "pooled_projection_dim"),
        "the projection_dim of both CLIP encoders", None if None in widths else sum(widths),
    )  # fmt: skip
    for name in ("scaling_factor", "shift_factor"):
        if found.configs.get("vae") and of("vae", name) is None:
            found.add("vae", "no_" + name, f"vae/config.json has no {name}")
    for part, words in found.words.items():
        encoder = found.configs.get(part.replace("tokenizer", "text_encoder"), {})
        compare_words(found, part, words, encoder)
