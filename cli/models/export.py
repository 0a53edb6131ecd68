"""`renderfarm models export`: a folder for the ONNX engine, and the entry that serves it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shared.models import ModelEntry, load_catalog
from shared.settings import load_settings

# What is the folder's own, and what a graph cannot do.
LEFT_OUT = {
    "id", "title", "source", "revision", "precision", "engine", "aliases", "gguf_file", "profile",
    "placement", "compile", "attention", "vae_tiling", "allow_tiling", "skip_layers",
    "skip_layer_start", "skip_layer_stop", "skip_layer_guidance", "preset",
}  # fmt: skip


@click.command("export")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    help="Of the graphs.  [default: the entry's compute precision]",
)
@click.option("--vae/--no-vae", default=True, help="Export the VAE too, or leave it to torch.")
def export(name: str, folder: Path, precision: str | None, vae: bool) -> None:
    """Write model NAME as ONNX graphs into FOLDER, ready to be served.

    Needs the extra `onnx`. Ends by printing the entry for models.toml.

    \b
    Example:
      renderfarm models export tiny my-onnx --precision fp32
    """
    settings = load_settings()
    entry = load_catalog(settings.models_file, settings.default_model).find(name)
    from worker.loading.export import export as write

    precision = precision or entry.compute_precision
    write(entry, settings, folder, precision=precision, vae=vae, say=_say)
    _say("done; put this into your models.toml:")
    click.echo(table(entry, folder, precision))


def table(entry: ModelEntry, folder: Path, precision: str) -> str:
    """The TOML of the entry that serves `folder`, with what the exported entry says besides."""
    own = {
        "title": f"{entry.title or entry.id} (ONNX, {precision})",
        "source": f"dir:{folder.resolve()}",
        "engine": "onnx",
        "precision": precision,
    }
    kept = entry.model_dump(mode="json", exclude_defaults=True, exclude=LEFT_OUT)
    if kept.get("t5") not in (None, "off"):
        del kept["t5"]  # the text encoders are read in the graph's own dtype
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**own, **kept}.items()]
    return "\n".join([f'[models."{entry.id}-onnx"]', *lines])


def _say(line: str) -> None:
    click.echo(line, err=True)
