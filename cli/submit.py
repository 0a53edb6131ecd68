"""`renderfarm submit`: order jobs and go."""

from __future__ import annotations

from typing import Any

import click

from cli.options import farm_options, json_option
from cli.orders import order_options, orders
from renderfarm_client import Client


@click.command()
@order_options
@click.option("--idempotency-key", help="The same key and order are the same job, for a day.")
@json_option
@farm_options
def submit(farm: Client, idempotency_key: str | None, as_json: bool, **fields: Any) -> None:
    """Order a job and do not wait for it.

    Prints the job's id and address, separated by a tab. PROMPT of `-`: one job for each line of
    stdin.

    \b
    Example:
      renderfarm submit "a lighthouse at dusk" -n 4 --seed 42
      renderfarm wait $(renderfarm submit "a lighthouse at dusk" | cut -f1)
      renderfarm submit - --steps 20 < prompts.txt > jobs.txt
    """
    found = orders(**fields)
    if idempotency_key and len(found) > 1:
        raise click.UsageError("--idempotency-key names one job, and stdin has several lines")
    for order in found:
        job = farm.submit(order, idempotency_key=idempotency_key)
        click.echo(job.model_dump_json() if as_json else f"{job.id}\t{farm.url}/jobs/{job.id}")
