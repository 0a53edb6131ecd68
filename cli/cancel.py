"""`renderfarm cancel`: stop jobs."""

from __future__ import annotations

import click

from cli.options import farm_options, json_option
from cli.status import line
from renderfarm_client import Client


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@json_option
@farm_options
def cancel(farm: Client, jobs: tuple[str, ...], as_json: bool) -> None:
    """Stop what of each JOB has not finished: what waits at once, what runs at its next step.

    Finished images stay. A job that is done is refused, with code 2.

    \b
    Example:
      renderfarm cancel job_01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    for job_id in jobs:
        job = farm.cancel(job_id)
        click.echo(job.model_dump_json(by_alias=True) if as_json else line(job))
