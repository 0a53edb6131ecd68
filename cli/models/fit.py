"""`renderfarm models fit`: which precision, T5 and placement a card of some size holds."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from shared.catalog import load_catalog
from shared.errors import ModelError
from shared.models import ModelEntry
from shared.settings import load_settings

PRECISIONS = ("bf16", "fp8", "fp8-storage", "int8", "nf4")
T5 = ("on", "fp8", "int8", "nf4", "off")
NOTE = "Arithmetic, not measured: one picture of the model's default size. GB are 10^9 bytes."


@click.command("fit")
@click.argument("name")
@click.option("--memory-gb", type=click.FloatRange(min=0), help="The card's, as it is sold (GiB).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def fit(name: str, memory_gb: float | None, as_json: bool) -> None:
    """Show how much of a card's memory the model NAME needs, by precision, T5 and placement.

    \b
    Example:
      renderfarm models fit sd3.5-large --memory-gb 24
    """
    settings = load_settings()
    entry = load_catalog(settings.models_file, settings.default_model).find(name)
    rows = _rows(entry)
    memory_bytes = None if memory_gb is None else round(memory_gb * 2**30)
    if as_json:
        click.echo(json.dumps({"model": entry.id, "memory_bytes": memory_bytes, "rows": rows}))
        return
    console = Console()
    console.print(_table(rows, memory_bytes))
    console.print(NOTE, *(["Bold: the card holds it."] if memory_bytes else []), highlight=False)


def _rows(entry: ModelEntry) -> list[dict[str, Any]]:
    """Bytes by placement for each pair of precision and T5. Raises ModelError."""
    from worker.loading.fit import need
    from worker.loading.weights import known

    if entry.engine != "diffusers":
        raise ModelError(
            f"{entry.id} runs in engine {entry.engine}, whose providers take memory as they see "
            "fit: no arithmetic tells how much"
        )
    weights = known(entry)
    if weights is None:
        raise ModelError(
            f"{entry.id} is none of the models whose weights are known here; its worker counts "
            "them when it starts, and says so where they do not fit"
        )
    pairs = product(PRECISIONS, T5)
    return [
        {
            "precision": precision,
            "t5": t5,
            "need_bytes": need(
                entry.model_copy(update={"precision": precision, "t5": t5}), weights
            ),
        }
        for precision, t5 in pairs
    ]


def _table(rows: list[dict[str, Any]], memory_bytes: int | None) -> Table:
    table = Table()
    for column in ("precision", "t5", *rows[0]["need_bytes"]):
        table.add_column(column)
    for row in rows:
        cells = [_cell(needed, memory_bytes) for needed in row["need_bytes"].values()]
        table.add_row(row["precision"], row["t5"], *cells)
    return table


def _cell(needed_bytes: int, memory_bytes: int | None) -> str:
    told = f"{needed_bytes / 1e9:.1f} GB"
    if memory_bytes is None:
        return told
    return f"[bold]{told} fits[/bold]" if needed_bytes <= memory_bytes else f"[dim]{told} -[/dim]"
