"""`renderfarm bench gpu`: how fast the engine is on this machine's device, beside plain diffusers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.bench_table import show
from shared.catalog import load_catalog
from shared.errors import FarmError
from shared.settings import load_settings

if TYPE_CHECKING:
    from worker.bench.plan import Plan


class NothingMeasured(FarmError):
    """No variant could be measured; the lines above say why."""


@click.group()
def bench() -> None:
    """Measure this machine."""


@bench.command()
@click.option(
    "--shape", "shapes", multiple=True, type=click.Choice(["large", "turbo", "medium"]),
    help="SD3.5 at its true size with random weights; again for more.  [default: all]",
)  # fmt: skip
@click.option("--model", help="A model of models.toml with its own weights, instead of shapes.")
@click.option(
    "--variant", "variants", multiple=True,
    help="naive, engine, compile, compile+fp8, final, or fields of a model entry: "
    "compile=regional,attention=flash; again for more.  [default: those five]",
)  # fmt: skip
@click.option(
    "--px", "sides_px", multiple=True, type=click.IntRange(64),
    help="Side of the square picture; again for more.  [default: 1024 and 512]",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="[default: 28; 4 for turbo]")
@click.option("--repeats", default=10, show_default=True, type=click.IntRange(1))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--tiny", is_flag=True, help="Toy widths: a dry run, whose numbers mean nothing.")
@click.option("--ceilings/--no-ceilings", default=True, help="Products, attention, copies alone.")
@click.option("--budget-minutes", default=60.0, show_default=True, type=click.FloatRange(0.05))
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path),
    help="For random weights, 28 GB at most; they are deleted again.  [default: the system's]",
)  # fmt: skip
@click.option(
    "--json", "into", type=click.Path(dir_okay=False, path_type=Path),
    help="Append every row to this file, as a line of JSON.",
)  # fmt: skip
def gpu(budget_minutes: float, folder: Path | None, into: Path | None, **asked: Any) -> None:
    """Time the engine's variants, each in a process of its own, and print one row for each.

    `naive` is the pipeline as diffusers' documentation shows it: the others are compared with it.
    A variant that cannot run here is a row with the reason. docs/numbers.md explains the columns.

    \b
    Example:
      renderfarm bench gpu --shape large --px 1024 --json rows.jsonl
      renderfarm bench gpu --tiny --device cpu --px 64 --variant naive --variant engine
    \b
    Exit codes:
      0    at least one variant was measured
      1    none was
      2    wrong usage: also without a GPU, --tiny or --model
    """
    from worker.bench.run import measured

    if not asked["tiny"] and not asked["model"]:
        _need_card(asked["device"])
    plan, rows = _plan(**asked), []
    with tempfile.TemporaryDirectory(prefix="renderfarm-bench-", dir=folder) as aside:
        for row in measured(plan, Path(aside), 60 * budget_minutes, _say):
            rows.append(row)
            if into:
                _append(into, row)
    show(rows)
    if not any("s_p50" in row for row in rows):
        raise NothingMeasured


def _need_card(device: str) -> None:
    from worker.loading.devices import pick_device

    if pick_device(device) == "cpu":
        raise click.UsageError(
            "SD3.5 at its true size needs a GPU, and there is none here: --tiny --device cpu is a "
            "dry run, --model NAME takes a model of models.toml with its own weights"
        )


def _plan(
    shapes: tuple[str, ...], model: str | None, variants: tuple[str, ...],
    sides_px: tuple[int, ...], steps: int | None, **others: Any,
) -> Plan:  # fmt: skip
    from dataclasses import replace

    from worker.bench.plan import SHAPES, SIDES_PX, VARIANTS, Plan, Subject

    subjects = [subject for name, subject in SHAPES.items() if name in (shapes or SHAPES)]
    settings, served = load_settings(), {}
    if model:
        if shapes or others["tiny"]:
            raise click.UsageError("--model brings its own weights: leave out --shape and --tiny")
        entry = load_catalog(settings.models_file, settings.default_model).find(model)
        served = entry.model_dump(mode="json")
        subjects = [Subject(entry.id, "", entry.steps, entry.guidance_scale)]
    return Plan(
        subjects=tuple(replace(subject, steps=steps or subject.steps) for subject in subjects),
        variants=variants or tuple(VARIANTS),
        sides_px=sides_px or SIDES_PX,
        served=served,
        # No secret leaves this process: a gated model must lie here already.
        settings={"model_cache_dir": str(settings.cache_dir.resolve())},
        **others,
    )


def _say(text: str) -> None:
    click.echo(f"renderfarm: {text}", err=True)


def _append(into: Path, row: dict[str, Any]) -> None:
    try:
        with into.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise FarmError(f"cannot write {into}: {error.strerror}") from error
