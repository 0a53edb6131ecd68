"""`renderfarm workers ...`: who works, and orders to drain."""

from __future__ import annotations

import json
import time

import click
from rich.console import Console
from rich.table import Table

from cli.options import farm_options
from cli.screen import plain
from renderfarm_client import Client, Worker
from shared.errors import FarmError

LOOK_S = 0.5


class StillHolding(FarmError):
    """The worker did not finish in time; the order stands."""

    exit_code = 4


@click.group()
def workers() -> None:
    """The workers of the farm. Needs an admin's key."""


@workers.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@farm_options
def list_workers(farm: Client, as_json: bool) -> None:
    """Show every worker heard of within an hour.

    \b
    Example:
      renderfarm workers list --json
    """
    found = farm.workers()
    if as_json:
        click.echo(json.dumps([worker.model_dump(mode="json") for worker in found], indent=2))
    elif found:
        Console().print(_table(found))
    else:
        click.echo("no worker was heard of within an hour")


@workers.command("drain")
@click.argument("name")
@click.option("--wait", is_flag=True, help="Return when it holds nothing any more.")
@click.option(
    "--timeout", "timeout_s", type=float, help="Wait at most so many seconds.  [default: for ever]"
)
@farm_options
def drain_worker(farm: Client, name: str, wait: bool, timeout_s: float | None) -> None:
    """Let worker NAME finish what it holds, and take nothing more.

    It leaves; started again, it waits without loading its model, so the card is free, until
    `renderfarm workers release NAME`.

    \b
    Example:
      renderfarm workers drain gpu-box-gpu0 --wait
    \b
    Exit codes:
      0    the order stands; with --wait, the worker holds nothing
      4    --timeout is over; the order stands
    """
    give_up_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    farm.drain(name)
    while wait and _is_busy(name, farm.workers()):
        if time.monotonic() > give_up_at:
            raise StillHolding
        time.sleep(LOOK_S)
    click.echo(f"{name} {'holds nothing' if wait else 'drains'}")


@workers.command("release")
@click.argument("name")
@farm_options
def release_worker(farm: Client, name: str) -> None:
    """Let worker NAME work again: lift the order to drain, and a quarantine.

    \b
    Example:
      renderfarm workers release gpu-box-gpu0
    """
    farm.release(name)
    click.echo(f"{name} may work")


def _is_busy(name: str, found: tuple[Worker, ...]) -> bool:
    """Whether it holds a render, or may still take one; a worker that left is in no list."""
    mine = (worker for worker in found if worker.id == name)
    return any(worker.holding or worker.state in ("loading", "ready", "busy") for worker in mine)


def _table(found: tuple[Worker, ...]) -> Table:
    table = Table()
    for column in ("worker", "model", "state", "holds", "last death", "remark"):
        table.add_column(column, overflow="fold")
    for each in found:
        death = each.last_death
        table.add_row(*plain(
            each.id, each.model, each.state, str(each.holding),
            f"{death.cause} {death.at}" if death else "", each.error or each.note or "",
        ))  # fmt: skip
    return table
