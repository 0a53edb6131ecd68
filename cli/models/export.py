"""`renderfarm models export`: a folder for the ONNX engine, and the entry that serves it."""

from __future__ import annotations

from pathlib import Path

import click

from cli.models.named import NOT_IN_THE_FILE, entry_of, need_worker
from shared.settings import load_settings


@click.command()
@click.argument("model", metavar="NAME|DIR")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    help="Of the graphs.  [default: the entry's compute precision]",
)
@click.option("--vae/--no-vae", default=True, help="Export the VAE too, or leave it to torch.")
def export(model: str, folder: Path, precision: str | None, vae: bool) -> None:
    """Write a model to FOLDER as ONNX graphs, and print the entry that serves it.

    Downloads the model if it is not here. Needs the extra `onnx`, and minutes for a large model.

    \b
    Example:
      renderfarm models export tiny my-onnx --precision fp32
    """
    settings = load_settings()
    entry = entry_of(model, settings)
    need_worker("torch", "diffusers")
    from worker.loading.bake import as_toml
    from worker.loading.export import export as write

    precision = precision or entry.compute_precision
    made = write(entry, settings, folder, precision=precision, vae=vae, say=_say)
    if entry.id == NOT_IN_THE_FILE:
        made = made.model_copy(update={"id": folder.name})
    click.echo(f"# {folder}. For models.toml:")
    click.echo(as_toml(made))


def _say(line: str) -> None:
    click.echo(line, err=True)
