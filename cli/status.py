"""`renderfarm status`: how far jobs are."""

from __future__ import annotations

import click

from cli.options import farm_options, json_option
from renderfarm_client import Client, Job


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@json_option
@farm_options
def status(farm: Client, jobs: tuple[str, ...], as_json: bool) -> None:
    """Say how far each JOB is.

    Prints its id, its status, how many of its images are done, and what else is known, separated
    by tabs. `--json` prints all of it, one job a line.

    \b
    Example:
      renderfarm status job_01JD8QZ4M3N5P7R9S1T3V5W7X9
      renderfarm status job_01JD8QZ4M3N5P7R9S1T3V5W7X9 --json | jq .images[0].url
    """
    for job_id in jobs:
        job = farm.get(job_id)
        click.echo(job.model_dump_json(by_alias=True) if as_json else line(job))


def line(job: Job) -> str:
    """One line of words, parted by tabs."""
    done = sum(image.status in ("succeeded", "failed", "canceled") for image in job.images)
    return "\t".join(filter(None, [job.id, job.status, f"{done}/{len(job.images)}", _more(job)]))


def _more(job: Job) -> str:
    if job.error:
        return f"{job.error.message} ({job.error.code})"
    if job.status == "queued" and job.queue_position is not None:
        return f"{job.queue_position} before it"
    if job.eta_s is not None and not job.done:
        return f"about {job.eta_s:.0f} s left"
    return "cached" if job.cached else ""
