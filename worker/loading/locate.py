"""From a model entry to a folder on this machine that looks whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.errors import ModelError
from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading import hub, tiny
from worker.loading.steps import Report, step, untold

T5_PARTS = ("text_encoder_3", "tokenizer_3")
PARTS = (
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "vae",
    *T5_PARTS,
)


def locate(entry: ModelEntry, settings: Settings, report: Report = untold) -> Path:
    """The model's diffusers folder: found, downloaded or built, then checked without reading weights.

    Raises ModelError, or ModelUnavailable when a download is refused or there is no network.
    """
    kind, _, rest = entry.source.partition(":")
    if kind == "dir":
        report("download", "skipped")
        folder = Path(rest).expanduser()
    else:
        with step("download", report):
            folder = _build(rest, settings) if kind == "tiny" else _fetch(entry, rest, settings)
    with step("preflight", report):
        check(folder, parts(entry))
    return folder


def parts(entry: ModelEntry) -> tuple[str, ...]:
    """The components that this entry loads."""
    return PARTS if entry.t5 != "off" else tuple(p for p in PARTS if p not in T5_PARTS)


def tiny_options(text: str) -> tuple[str, int]:
    """`size=small,seed=3` as (size, seed). Raises ModelError."""
    options = {"size": "normal", "seed": "0"}
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        if name not in options:
            raise ModelError(f"a tiny model has no option {name!r}; it has size and seed")
        options[name] = value
    size, seed = options["size"], options["seed"]
    if size not in tiny.SIZES:
        raise ModelError(f"a tiny model's size is one of {', '.join(tiny.SIZES)}, not {size!r}")
    if not (seed.isascii() and seed.isdigit()):
        raise ModelError(f"a tiny model's seed is a whole number, not {seed!r}")
    return size, int(seed)


def check(folder: Path, wanted: tuple[str, ...]) -> None:
    """Raise ModelError for the first thing missing. Reads JSON only: weights may still be damaged."""
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}")
    listed = _json(folder, "model_index.json")
    kind = listed.get("_class_name")
    if kind != "StableDiffusion3Pipeline":
        raise ModelError(f"{folder} holds a {kind}, not a StableDiffusion3Pipeline")
    for part in wanted:
        if not any(listed.get(part) or ()):
            raise ModelError(f"model_index.json in {folder} lists no {part}")
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} has no folder {part}, which its model_index.json lists")
        if part == "transformer" or part == "vae" or part.startswith("text_encoder"):
            _check_weights(folder, part)


def _check_weights(folder: Path, part: str) -> None:
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    index = f"{part}/{stem}.safetensors.index.json"
    names = {f"{stem}.safetensors"}
    if (folder / index).exists():
        names = set(_json(folder, index).get("weight_map", {}).values())
    for name in ("config.json", *sorted(names)):
        if not (folder / part / name).is_file():
            raise ModelError(f"{folder} is not complete: {part}/{name} is missing")


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} is not a diffusers model: it has no {name}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/{name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{folder}/{name} is not a JSON object")
    return value


def _build(options: str, settings: Settings) -> Path:
    size, seed = tiny_options(options)
    folder = settings.cache_dir / f"tiny-{size}-{seed}-v{tiny.VERSION}"
    return tiny.build(folder, size=size, seed=seed)


def _fetch(entry: ModelEntry, repo: str, settings: Settings) -> Path:
    """The local copy if it is whole, without any network; else what is missing is downloaded."""
    wanted = parts(entry)
    have = hub.local_copy(repo, entry.revision, wanted, settings)
    try:
        if have:
            check(have, wanted)
            return have
    except ModelError:
        pass  # an interrupted download: the hub's client goes on where it stopped
    return hub.download(repo, entry.revision, wanted, settings)
