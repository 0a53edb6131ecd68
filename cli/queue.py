"""`renderfarm queue`: how busy the farm is."""

from __future__ import annotations

import click

from cli.options import farm_options, json_option
from renderfarm_client import Client
from renderfarm_client.records import QueueOfModel


@click.command()
@json_option
@farm_options
def queue(farm: Client, as_json: bool) -> None:
    """Show how long each model's queue is, who works on it, and what of it is yours.

    \b
    Example:
      renderfarm queue
    """
    found = farm.queue()
    if as_json:
        click.echo(found.model_dump_json())
        return
    for model in found.models:
        click.echo(_told(model))
    if found.mine:
        most = f" of {found.mine.max_queued}" if found.mine.max_queued is not None else ""
        click.echo(f"yours\t{found.mine.queued}{most} queued, {found.mine.running} running")


def _told(model: QueueOfModel) -> str:
    workers = model.workers
    eta = f", a new order starts in about {model.eta_s:.0f} s" if model.eta_s is not None else ""
    return (
        f"{model.model}\t{model.queued} queued, {model.running} running; "
        f"{workers.ready} workers ready, {workers.busy} busy, {workers.loading} loading{eta}"
    )
