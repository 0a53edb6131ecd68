"""`renderfarm models check`: every fault of a model folder, before a worker stumbles over it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.models.meter import meter
from cli.models.named import entry_of, folder_of, need_worker
from shared.errors import ModelError
from shared.models import ModelEntry
from shared.settings import Settings, load_settings

if TYPE_CHECKING:
    from worker.loading.findings import Fault


@click.command()
@click.argument("model", metavar="NAME|DIR")
@click.option("--deep", is_flag=True, help="Read all weights: NaN, and the sha256 of every file.")
@click.option("--canary", is_flag=True, help="Load it, and render one small image.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of words.")
@click.pass_context
def check(ctx: click.Context, model: str, deep: bool, canary: bool, as_json: bool) -> None:
    """Look for faults in a model's folder, without loading it.

    Reads JSON and the headers of the weights, so a large model takes no longer than a small one.
    Every fault is one line.

    \b
    Example:
      renderfarm models check sd3.5-medium
      renderfarm models check /srv/models/mine --deep --canary
    Exit codes: 0 no fault; 1 faults, or it is not on this machine; 2 wrong usage
    """
    settings = load_settings()
    entry = entry_of(model, settings)
    folder = folder_of(entry, settings)
    faults, remarks = _shallow(entry, folder)
    if deep and not faults:
        faults += _deep(entry, folder, remarks)
    if canary and not faults:
        faults += _canary(entry, settings)
    if as_json:
        said = [{"part": f.part, "code": f.code, "message": f.message} for f in faults]
        click.echo(
            json.dumps({"folder": str(folder), "faults": said, "remarks": remarks}, indent=2)
        )
    else:
        for line in [*(fault.message for fault in faults), *remarks]:
            click.echo(line)
        click.echo(f"{folder}: " + (f"{len(faults)} faults" if faults else "no fault found"))
    ctx.exit(1 if faults else 0)


def _shallow(entry: ModelEntry, folder: Path) -> tuple[list[Fault], list[str]]:
    from worker.loading.onnx_folder import look_at_graphs
    from worker.loading.parts import gguf_of, wanted_by
    from worker.loading.preflight import preflight

    remarks = []
    if find_spec("torch") is None:
        remarks.append("torch is not installed here: names and shapes of tensors were not compared")
    faults = preflight(folder, wanted_by(entry), gguf_of(entry, folder))
    return [*faults, *look_at_graphs(entry, folder)], remarks


def _deep(entry: ModelEntry, folder: Path, remarks: list[str]) -> list[Fault]:
    need_worker("torch", "safetensors")
    from worker.loading.deep import look_deep
    from worker.loading.manifest import NAME
    from worker.loading.parts import wanted_by

    with meter("read") as progress:
        faults, compared = look_deep(folder, wanted_by(entry), progress)
    if not compared:
        remarks.append(f"there is no {NAME}: a bit that turned over would not be seen")
    return faults


def _canary(entry: ModelEntry, settings: Settings) -> list[Fault]:
    need_worker("torch", "diffusers")
    from worker.loading.findings import Fault
    from worker.loading.load import load

    try:  # its warm-up renders, and refuses NaN and one flat colour
        load(entry, settings, settings.device)
    except ModelError as error:
        return [Fault("model", "canary", str(error))]
    return []
