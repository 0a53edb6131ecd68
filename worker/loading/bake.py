"""A ready-to-serve folder out of an entry: its dtype, in shards that load side by side, with a manifest."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from shared.errors import FarmError, ModelError
from shared.models import ModelEntry
from worker.loading import manifest
from worker.loading.devices import card_of
from worker.loading.parts import files_of, wanted_by
from worker.loading.preflight import check
from worker.loading.progress import Progress, unseen
from worker.loading.read import read
from worker.loading.refuse import refuse_impossible
from worker.loading.steps import untold

SHARD = "2GB"
# As they are: saving them again would only turn them into another release's layout.
_COPIED = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")


def bake(
    entry: ModelEntry,
    source: Path,
    folder: Path,
    *,
    device: str = "cpu",
    shard: str = SHARD,
    progress: Progress = unseen,
) -> ModelEntry:
    """Write `folder` from the located `source`, and return the entry that serves it.

    Made aside and renamed into place. `device`, one of `pick_device`'s, quantizes. Raises
    ModelError: for what cannot be quantized or saved, and for a folder that is not empty.
    """
    resident = entry.model_copy(update={"placement": "gpu", "profile": None, "compile": "off"})
    _refuse(resident, folder, device)
    pipe = read(source, resident, device, untold)
    wanted = wanted_by(entry)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".baking-") as aside:
            made = Path(aside) / "model"
            _save(pipe, source, made, shard)
            check(made, wanted)
            manifest.write(made, files_of(made, wanted), progress)
            made.replace(folder)
    except FarmError:
        raise
    except Exception as error:  # a full disk has another class in each library
        raise ModelError(f"{folder} cannot be written: {error}") from error
    baked = {"source": f"dir:{folder.resolve()}", "revision": ""}
    return entry.model_copy(update=baked)


def _refuse(entry: ModelEntry, folder: Path, device: str) -> None:
    if entry.precision == "gguf" or entry.engine == "onnx":
        kind = "a GGUF file" if entry.precision == "gguf" else "an ONNX export"
        raise ModelError(f"{entry.id} is served from {kind}, which is in its final form already")
    refuse_impossible(entry, card_of(device))
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} is not empty")


def _save(pipe: Any, source: Path, made: Path, shard: str) -> None:
    pipe.save_pretrained(made, safe_serialization=True, max_shard_size=shard)
    for part in _COPIED:
        if (made / part).is_dir():
            shutil.rmtree(made / part)
            shutil.copytree(source / part, made / part, symlinks=False)


def as_toml(entry: ModelEntry) -> str:
    """The entry as a table of `models.toml`, without what it leaves at the default."""
    said = entry.model_dump(mode="json", exclude={"id"}, exclude_defaults=True)
    lines = (f"{name} = {_toml(value)}" for name, value in said.items())
    return "\n".join([f'[models."{entry.id}"]', *lines])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
