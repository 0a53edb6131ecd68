"""A model as a folder for the ONNX engine: graphs, and all that stays torch's beside them."""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared.engines import ONNX_PRECISIONS
from shared.errors import FarmError, ModelError
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.dtypes import DTYPES
from worker.loading import manifest as sums
from worker.loading import onnx_graphs
from worker.loading.linking import link_parts
from worker.loading.locate import locate
from worker.loading.onnx_folder import (
    DECODER,
    ENCODER,
    FORMAT,
    TRANSFORMER,
    File,
    Manifest,
)
from worker.loading.parts import ONNX_MANIFEST, files_of, wanted_by
from worker.loading.quiet import quiet_libraries

LIBRARIES = ("torch", "diffusers", "onnx", "onnxscript")
READABLE = 0o644
# What an exported entry says of its own weights, and what a graph cannot do.
ITS_OWN = {
    "revision", "aliases", "gguf_file", "profile", "placement", "compile", "attention", "fuse_qkv",
    "vae_tiling", "allow_tiling", "skip_layers", "skip_layer_start", "skip_layer_stop",
    "skip_layer_guidance", "preset",
}  # fmt: skip


def export(
    entry: ModelEntry,
    settings: Settings,
    folder: Path,
    *,
    precision: str,
    vae: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> ModelEntry:
    """Write `folder`, and return the entry that serves it. Without `vae` that stays torch's.

    `int8` is the float32 graph with its large multiplications in 8 bits. Built aside and renamed
    into place. Needs the network in host memory, twice for a moment. Raises ModelError.
    """
    _refuse(entry, folder, precision)
    serving = serving_entry(entry, folder, precision)
    quiet_libraries()
    say(f"looking for {entry.source}")
    source = locate(entry, settings)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".exporting-") as aside:
            made = Path(aside) / "model"
            _write(entry, source, made, precision, vae, say)
            sums.write(made, files_of(made, wanted_by(serving)))
            made.rename(folder)
    except FarmError:
        raise
    except Exception as error:  # a full disk has another class in each library
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{folder} cannot be written: {why}") from error
    return serving


def _refuse(entry: ModelEntry, folder: Path, precision: str) -> None:
    if entry.engine == "onnx":
        raise ModelError(f"{entry.id} is served from such a folder: export the model it came from")
    if precision not in ONNX_PRECISIONS:
        raise ModelError(f"an ONNX graph is {', '.join(ONNX_PRECISIONS)}, not {precision}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is in use: name a folder that is empty or does not exist")


def _write(
    entry: ModelEntry,
    source: Path,
    made: Path,
    precision: str,
    vae: bool,
    say: Callable[[str], None],
) -> None:
    graphs = ("transformer", "vae") if vae else ("transformer",)
    say("linking or copying what stays as it is")
    link_parts(source, made, [part for part in wanted_by(entry).parts if part not in graphs])
    _transformer(source, made, precision, say)
    if vae:
        _vae(source, made, precision, say)
    say("hashing the graphs")
    manifest = _manifest(entry, made, precision)
    (made / ONNX_MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
    (made / sums.NAME).unlink(missing_ok=True)  # of the model that was exported


def serving_entry(entry: ModelEntry, folder: Path, precision: str) -> ModelEntry:
    """The entry for the exported folder: what `entry` says of orders, and of itself what a graph can."""
    own = {
        "id": f"{entry.id}-onnx",
        "title": f"{entry.title or entry.id} (ONNX, {precision})",
        "source": f"dir:{folder.resolve()}",
        "engine": "onnx",
        "precision": precision,
        "t5": "off" if entry.t5 == "off" else "on",
    }
    kept = entry.model_dump(exclude_defaults=True, exclude=ITS_OWN)
    return ModelEntry.model_validate({**kept, **own})


def dtype_of(precision: str) -> str:
    """What the graph takes and gives, and the text encoders compute in."""
    return "fp32" if precision == "int8" else precision


def _transformer(source: Path, made: Path, precision: str, say: Callable[[str], None]) -> None:
    from diffusers import SD3Transformer2DModel

    network = _network(SD3Transformer2DModel, source, "transformer", precision, say)
    _save_config(network, made / "transformer")
    if precision != "int8":
        _timed(onnx_graphs.write_transformer, network, made / TRANSFORMER, say)
        return
    whole = made.parent / "whole" / "model.onnx"
    _timed(onnx_graphs.write_transformer, network, whole, say)
    del network
    gc.collect()
    say("quantizing the transformer to 8 bits")
    onnx_graphs.quantize(whole, made / TRANSFORMER)


def _vae(source: Path, made: Path, precision: str, say: Callable[[str], None]) -> None:
    from diffusers import AutoencoderKL

    network = _network(AutoencoderKL, source, "vae", precision, say)
    _save_config(network, made / "vae")
    _timed(onnx_graphs.write_decoder, network, made / DECODER, say)
    _timed(onnx_graphs.write_encoder, network, made / ENCODER, say)


def _network(kind: Any, source: Path, part: str, precision: str, say: Callable[[str], None]) -> Any:
    say(f"reading the {part} in {dtype_of(precision)}")
    try:
        return kind.from_pretrained(
            source / part,
            torch_dtype=DTYPES[dtype_of(precision)],
            local_files_only=True,
            use_safetensors=True,
        )
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{source / part} cannot be loaded: {why}") from error


def _save_config(network: Any, folder: Path) -> None:
    """Whole, with the defaults; without the folder that it was read from."""
    config = json.loads(network.to_json_string())
    config.pop("_name_or_path", None)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _timed(
    write: Callable[[Any, Path], None], network: Any, file: Path, say: Callable[[str], None]
) -> None:
    name = f"{file.parent.name}/{file.name}"
    say(f"tracing {name}; a large network takes minutes")
    started = time.monotonic()
    write(network, file)
    size_mb = sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*")) / 1e6
    say(f"wrote {name}: {size_mb:.1f} MB in {time.monotonic() - started:.1f} s")


def _manifest(entry: ModelEntry, made: Path, precision: str) -> Manifest:
    files = sorted(made.glob("*/*.onnx*"))
    for path in files:
        path.chmod(READABLE)  # else the quantizer's are their writer's alone
    return Manifest.model_validate(
        {
            "format": FORMAT,
            "source": entry.source,
            "revision": entry.revision,
            "precision": precision,
            "dtype": dtype_of(precision),
            "opset": onnx_graphs.opset_of(DTYPES[dtype_of(precision)]),
            "versions": {name: version(name) for name in LIBRARIES},
            "files": {path.relative_to(made).as_posix(): File.of(path) for path in files},
        }
    )
