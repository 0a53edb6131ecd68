"""`renderfarm retry`: order a failed job again."""

from __future__ import annotations

import uuid

import click

from cli.client import FarmClient
from cli.options import farm_options


@click.command()
@click.argument("job")
@farm_options
def retry(job: str, url: str, key: str | None) -> None:
    """Order JOB again, which failed, expired or was canceled.

    Prints the new job's id and address. Pictures that JOB has are not rendered again.

    \b
    Example:
      renderfarm retry job_01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    with FarmClient(url, key) as client:
        fresh = client.retry(job, idempotency_key=str(uuid.uuid4()))
        click.echo(f"{fresh.id}\t{client.url}/jobs/{fresh.id}")
