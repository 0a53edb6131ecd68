"""`renderfarm dry-run`: what an order would cost."""

from __future__ import annotations

from typing import Any

import click

from cli.options import farm_options, json_option
from cli.orders import order_options, orders
from renderfarm_client import Client, Estimate


@click.command("dry-run")
@order_options
@json_option
@farm_options
def dry_run(farm: Client, as_json: bool, **fields: Any) -> None:
    """Check an order and say what it would cost. Nothing is ordered.

    \b
    Example:
      renderfarm dry-run "a lighthouse at dusk" --size 1024x1024 -n 4
    \b
    Exit codes:
      0    the farm would take it
      2    the farm would refuse it, and says why
    """
    for order in orders(**fields):
        estimate = farm.dry_run(order)
        click.echo(estimate.model_dump_json() if as_json else _told(estimate))


def _told(estimate: Estimate) -> str:
    cached = sum(image.cached for image in estimate.images)
    images = f"{len(estimate.images)} image{'s' * (len(estimate.images) != 1)}"
    parts = [
        f"{images}, {cached} cached",
        f"{estimate.gpu_s:.1f} s on the device",
        f"{estimate.queue_position} before it" if estimate.queue_position else "nothing before it",
        "done at once" if cached == len(estimate.images) else _eta(estimate.eta_s),
        f"{estimate.workers_ready} workers ready",
    ]
    return "; ".join(parts)


def _eta(eta_s: float | None) -> str:
    return "done nobody knows when" if eta_s is None else f"done in about {eta_s:.0f} s"
