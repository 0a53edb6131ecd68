"""`renderfarm poison ...`: renders that took down their workers."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

from cli.options import farm_options
from cli.screen import plain
from renderfarm_client import Client, Poison


@click.group()
def poison() -> None:
    """Renders that took down their workers too often. Needs an admin's key."""


@poison.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@farm_options
def list_poison(farm: Client, as_json: bool) -> None:
    """Show every render on the list, the oldest first.

    \b
    Example:
      renderfarm poison list --json
    """
    found = farm.poison()
    if as_json:
        click.echo(json.dumps([each.model_dump() for each in found], indent=2))
    elif found:
        Console().print(_table(found))
    else:
        click.echo("no render is on the list")


@poison.command("retry")
@click.argument("render")
@farm_options
def retry_poison(farm: Client, render: str) -> None:
    """Retry every job that failed with RENDER, then drop it from the list.

    Prints the new jobs.

    \b
    Example:
      renderfarm poison retry 01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    for job in farm.retry_poison(render):
        click.echo(f"{job.id}\t{farm.url}/jobs/{job.id}")


@poison.command("drop")
@click.argument("render")
@farm_options
def drop_poison(farm: Client, render: str) -> None:
    """Take RENDER off the list. Its jobs stay failed.

    \b
    Example:
      renderfarm poison drop 01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    farm.drop_poison(render)


def _table(found: tuple[Poison, ...]) -> Table:
    table = Table()
    for column in ("render", "failed at", "workers lost", "owners", "jobs", "prompt"):
        table.add_column(column, overflow="fold")
    for each in found:
        table.add_row(*plain(
            each.render, each.failed_at, str(each.losses), ", ".join(each.owners),
            "\n".join(each.jobs), str(each.spec.get("prompt", ""))[:80],
        ))  # fmt: skip
    return table
