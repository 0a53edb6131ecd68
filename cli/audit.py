"""`renderfarm audit`: what admins and operators did."""

from __future__ import annotations

import json
import time

import click
from rich.console import Console
from rich.table import Table

from cli.screen import plain
from cli.settings import with_own_redis
from shared.owners import open_office
from shared.owners.port import Act
from shared.settings import load_settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option("--limit", default=50, show_default=True, help="How many, the newest first.")
def audit(as_json: bool, limit: int) -> None:
    """Show what admins and operators did, from the Redis of the farm. It keeps the last 10,000.

    \b
    Example:
      renderfarm audit --limit 10
    """
    acts = open_office(with_own_redis(load_settings())).audit.acts(limit)
    if as_json:
        click.echo(json.dumps([act.model_dump() for act in acts], indent=2))
    elif acts:
        Console().print(_table(acts))
    else:
        click.echo("nothing was done yet that would be written down")


def _table(acts: list[Act]) -> Table:
    table = Table()
    for column in ("when", "who", "did", "to", "of"):
        table.add_column(column, overflow="fold")
    for act in acts:
        when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(act.at))
        table.add_row(*plain(when, act.actor, act.what, act.target, act.owner or ""))
    return table
