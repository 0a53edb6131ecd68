"""`renderfarm events`: what happens to a job, as it happens."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.options import WAITING_PATIENCE_S, farm_options, json_option
from renderfarm_client import Client, Event


@click.command()
@click.argument("job")
@click.option("--after", metavar="ID", help="Only what came after this event.")
@json_option
@farm_options
def events(farm: Client, job: str, after: str | None, as_json: bool) -> None:
    """Print what happens to JOB, a line for each event, until it is done.

    A connection that breaks is taken up where it ended. `--json` prints `type`, `id` and `data`;
    the id of the last line is what `--after` takes.

    \b
    Example:
      renderfarm events job_01JD8QZ4M3N5P7R9S1T3V5W7X9
      renderfarm events job_01JD8QZ4M3N5P7R9S1T3V5W7X9 --json | jq -c .type
    """
    farm.patience_s = WAITING_PATIENCE_S
    for event in farm.events(job, after):
        click.echo(event.model_dump_json() if as_json else f"{event.type}\t{_told(event)}")


_SHORT = ("index", "step", "steps", "position", "eta_s", "seed", "status", "error")


def _told(event: Event) -> str:
    """The small fields of an event; a preview's picture is not for reading."""
    said: dict[str, Any] = {k: event.data[k] for k in _SHORT if event.data.get(k) is not None}
    said |= said.pop("progress", {})
    return " ".join(f"{name}={json.dumps(value)}" for name, value in said.items())
