"""`renderfarm retry`: order a failed job again."""

from __future__ import annotations

import click

from cli.options import farm_options, json_option
from renderfarm_client import Client


@click.command()
@click.argument("job")
@json_option
@farm_options
def retry(farm: Client, job: str, as_json: bool) -> None:
    """Order JOB again, which failed, expired or was canceled.

    Prints the new job's id and address. Pictures that JOB has are not rendered again.

    \b
    Example:
      renderfarm retry job_01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    fresh = farm.retry(job)
    told = f"{fresh.id}\t{farm.url}/jobs/{fresh.id}"
    click.echo(fresh.model_dump_json(by_alias=True) if as_json else told)
