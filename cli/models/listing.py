"""`renderfarm models list`: the catalog, and what of it is on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.models.card import card_bytes, placements
from cli.models.meter import gb
from cli.screen import plain
from shared.catalog import Catalog, load_catalog
from shared.errors import ModelError
from shared.models import ModelEntry
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
    memory_bytes = card_bytes()
    shown = [_document(e, catalog, settings, memory_bytes) for e in catalog.entries.values()]
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    else:
        Console().print(_table(shown))


def _on_disk(entry: ModelEntry, settings: Settings) -> OnDisk | None:
    """None: nothing of it is here, or nobody here could load it."""
    if find_spec("huggingface_hub") is None:
        return None
    from worker.loading.locate import present
    from worker.loading.onnx_folder import look_at_graphs
    from worker.loading.parts import gguf_of, paths_of, wanted_by
    from worker.loading.preflight import preflight

    try:
        folder = present(entry, settings)
    except ModelError:  # a source that means nothing: its worker says so
        return None
    if folder is None:
        return None
    wanted = wanted_by(entry)
    size_bytes = sum(path.stat().st_size for path in paths_of(entry, folder))
    faults = preflight(folder, wanted, gguf_of(entry, folder), shapes=False)
    faults += look_at_graphs(entry, folder)
    return OnDisk(str(folder), size_bytes, not faults)


def _document(
    entry: ModelEntry, catalog: Catalog, settings: Settings, memory_bytes: int | None
) -> dict[str, Any]:
    there = _on_disk(entry, settings)
    folder = Path(there.folder) if there else None
    return {
        **entry.model_dump(mode="json"),
        "digest": entry.digest,
        "default": entry is catalog.default,
        "random_weights": entry.random_weights,
        "folder": there.folder if there else None,
        "on_disk_bytes": there.bytes if there else 0,
        "whole": bool(there and there.whole),
        "card_bytes": memory_bytes,
        "card_holds": placements(entry, folder, memory_bytes) if memory_bytes else None,
    }


def _table(models: list[dict[str, Any]]) -> Table:
    table = Table()
    for column in ("model", "source", "on disk", "card", "licence", "defaults", "also called"):
        table.add_column(column, overflow="fold")  # a name that is cut is no name
    for model in models:
        name = f"{model['id']} (default)" if model["default"] else model["id"]
        defaults = f"{model['steps']} steps, guidance {model['guidance_scale']:g}"
        cells = plain(
            f"{name}\n{model['title']}",
            model["source"],
            _disk(model),
            _card(model),
            model["licence"],
            f"{defaults}, {model['width']} x {model['height']}",
            ", ".join(model["aliases"]),
        )
        table.add_row(*cells)
    return table


def _disk(model: dict[str, Any]) -> str:
    if model["folder"] is None:
        return "no"
    return gb(model["on_disk_bytes"]) + ("" if model["whole"] else ", not whole")


def _card(model: dict[str, Any]) -> str:
    """The fastest placement that fits."""
    if model["card_bytes"] is None:
        return "none here"
    if model["card_holds"] is None:
        return "pull it first" if model["folder"] is None else "not known"
    return model["card_holds"][0] if model["card_holds"] else "too small"
