"""The rows of a benchmark on the screen."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from cli.screen import plain

Row = dict[str, Any]
# Heading, field and format of each.
COLUMNS = (
    ("p50 s", "s_p50", ".3f"),
    ("p95 s", "s_p95", ".3f"),
    ("img/s", "images_per_s", ".2f"),
    ("ms/step", "ms_per_step", ".1f"),
    ("TFLOP/s", "tflop_per_s", ".4g"),
    ("of ceiling", "ceiling_share", ".0%"),
    ("peak GB", "peak_gb", ".1f"),
    ("first s", "first_call_s", ".2f"),
    ("cosine", "latent_cosine", ".5f"),
    ("PSNR dB", "psnr_db", ".1f"),
)
VERSIONS = ("device", "driver", "cuda", "cudnn", "torch", "diffusers", "transformers", "torchao")


def show(rows: list[Row]) -> None:
    """Ceilings, then a table of what was measured, then what was not and why."""
    console = Console()

    def say(text: str) -> None:
        console.print(*plain(text), soft_wrap=True)

    for row in rows:
        if "ceiling" in row:
            say(f"{row['ceiling']:<44} {_ceiling(row)}")
    measured = [row for row in rows if "s_p50" in row]
    if measured:
        console.print(_table(measured))
        known = measured[-1]["profile"]
        say(", ".join(f"{name} {known[name]}" for name in VERSIONS if name in known))
    for row in rows:
        if "variant" in row and "error" in row:
            name = f"{row['model']} {row['px']} px {row['variant']}".strip()
            say(f"{name}: {row['error']}")


def _table(rows: list[Row]) -> Table:
    tiny = any(row["tiny"] for row in rows)
    table = Table(title="tiny: a dry run, not a measurement" if tiny else None)
    headings = (heading for heading, _, _ in COLUMNS)
    for heading in ("model", "px", "variant", "x naive", *headings, "aim on an H200"):
        table.add_column(heading, overflow="fold")
    naive = {(r["model"], r["px"]): r["s_p50"] for r in rows if r["variant"] == "naive"}
    for row in rows:
        first = naive.get((row["model"], row["px"]))
        times = f"{first / row['s_p50']:.2f}" if first else ""
        cells = (_cell(row.get(field), form) for _, field, form in COLUMNS)
        table.add_row(
            *plain(row["model"], str(row["px"]), row["variant"], times, *cells, row["aim"])
        )
    return table


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _ceiling(row: Row) -> str:
    if row.get("error"):
        return str(row["error"])
    if "tb_per_s" in row:
        return f"{row['tb_per_s']:.3g} TB/s"
    return f"{row['tflop_per_s']:.4g} TFLOP/s"
