"""`renderfarm models list`: the catalog, and what of it is on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.models.meter import gb
from cli.screen import plain
from shared.errors import ModelError
from shared.models import Catalog, ModelEntry, load_catalog
from shared.settings import Settings, load_settings


@dataclass(slots=True, frozen=True)
class OnDisk:
    """`whole`: every file is there, and as long as its header says."""

    folder: str
    bytes: int
    whole: bool


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def list_models(as_json: bool) -> None:
    """Show every model of models.toml, and whether its weights are on this machine.

    \b
    Example:
      renderfarm models list --json
    """
    settings = load_settings()
    catalog = load_catalog(settings.models_file, settings.default_model)
    there = {entry.id: _on_disk(entry, settings) for entry in catalog.entries.values()}
    if as_json:
        documents = [_document(e, catalog, there[e.id]) for e in catalog.entries.values()]
        click.echo(json.dumps(documents, indent=2))
    else:
        Console().print(_table(catalog, there))


def _on_disk(entry: ModelEntry, settings: Settings) -> OnDisk | None:
    """None: nothing of it is here, or nobody here could load it."""
    if find_spec("huggingface_hub") is None:
        return None
    from worker.loading.locate import present
    from worker.loading.parts import files_of, gguf_path, wanted_by
    from worker.loading.preflight import preflight

    try:
        folder = present(entry, settings)
    except ModelError:  # a source that means nothing: its worker says so
        return None
    if folder is None:
        return None
    wanted = wanted_by(entry)
    gguf = gguf_path(entry, folder) if entry.precision == "gguf" else None
    size_bytes = sum((folder / name).stat().st_size for name in files_of(folder, wanted))
    faults = preflight(folder, wanted, gguf, shapes=False)
    return OnDisk(str(folder), size_bytes, not faults)


def _document(entry: ModelEntry, catalog: Catalog, there: OnDisk | None) -> dict[str, Any]:
    return {
        **entry.model_dump(mode="json"),
        "digest": entry.digest,
        "default": entry is catalog.default,
        "random_weights": entry.random_weights,
        "folder": there.folder if there else None,
        "on_disk_bytes": there.bytes if there else 0,
        "whole": bool(there and there.whole),
    }


def _table(catalog: Catalog, there: dict[str, OnDisk | None]) -> Table:
    table = Table()
    for column in ("model", "source", "on disk", "licence", "defaults", "also called"):
        table.add_column(column, overflow="fold")  # a name that is cut is no name
    for entry in catalog.entries.values():
        name = f"{entry.id} (default)" if entry is catalog.default else entry.id
        defaults = f"{entry.steps} steps, guidance {entry.guidance_scale:g}"
        cells = plain(
            f"{name}\n{entry.title}",
            entry.source,
            _said(there[entry.id]),
            entry.licence,
            f"{defaults}, {entry.width} x {entry.height}",
            ", ".join(entry.aliases),
        )
        table.add_row(*cells)
    return table


def _said(there: OnDisk | None) -> str:
    if there is None:
        return "no"
    return gb(there.bytes) if there.whole else f"{gb(there.bytes)}, not whole"
