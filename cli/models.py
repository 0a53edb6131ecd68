"""`renderfarm models ...`: what this farm knows, and a tiny model to try it with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.loras import add_lora
from cli.screen import plain
from shared.models import Catalog, ModelEntry, load_catalog
from shared.settings import load_settings


@click.group()
def models() -> None:
    """The models of the farm."""


models.add_command(add_lora)


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def list_models(as_json: bool) -> None:
    """Show every model of models.toml.

    \b
    Example:
      renderfarm models list --json
    """
    settings = load_settings()
    catalog = load_catalog(settings.models_file, settings.default_model)
    if as_json:
        click.echo(json.dumps([_document(e, catalog) for e in catalog.entries.values()], indent=2))
    else:
        Console().print(_table(catalog))


@models.command("make-tiny")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", default="normal", show_default=True, help="small, normal or large.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def make_tiny(folder: Path, size: str, seed: int) -> None:
    """Build a tiny SD3.5 of random weights in FOLDER. Whatever it draws is noise.

    \b
    Example:
      renderfarm models make-tiny my-tiny --size small
    """
    from worker.loading.tiny import build

    build(folder, size=size, seed=seed)
    size_mb = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    click.echo(f"{folder}: a tiny SD3.5 of size {size}, seed {seed}, {size_mb:.1f} MB")
    click.echo("Its weights are random: whatever it draws is noise.")
    click.echo(
        f'To serve it, put  source = "dir:{folder.resolve()}"  into an entry of models.toml.'
    )


def _document(entry: ModelEntry, catalog: Catalog) -> dict[str, Any]:
    return {
        **entry.model_dump(mode="json"),
        "digest": entry.digest,
        "default": entry is catalog.default,
        "random_weights": entry.random_weights,
    }


def _table(catalog: Catalog) -> Table:
    table = Table()
    for column in ("model", "title", "source", "steps", "guidance", "size", "also called"):
        table.add_column(column, overflow="fold")  # a name that is cut is no name
    for entry in catalog.entries.values():
        cells = plain(
            f"{entry.id} (default)" if entry is catalog.default else entry.id,
            entry.title,
            entry.source,
            str(entry.steps),
            f"{entry.guidance_scale:g}",
            f"{entry.width} x {entry.height}",
            ", ".join(entry.aliases),
        )
        table.add_row(*cells)
    return table
