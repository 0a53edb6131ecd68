"""`renderfarm wait`: until jobs are done."""

from __future__ import annotations

import time

import click

from cli.options import WAITING_PATIENCE_S, farm_options, json_option
from cli.screen import JobScreen
from cli.status import line
from renderfarm_client import Client, Job, JobEnded


@click.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option(
    "--timeout", "timeout_s", type=float, help="Wait so many seconds in all.  [default: for ever]"
)
@json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@farm_options
def wait(
    farm: Client, jobs: tuple[str, ...], timeout_s: float | None, as_json: bool, quiet: bool
) -> None:
    """Wait until every JOB is done; print each as `renderfarm status` does.

    On a terminal a bar for each image shows the steps. Ctrl-C ends the waiting, not the jobs.

    \b
    Example:
      renderfarm wait job_01JD8QZ4M3N5P7R9S1T3V5W7X9 --timeout 600
      cut -f1 jobs.txt | xargs renderfarm wait
    \b
    Exit codes:
      0    every job succeeded
      1    a job failed, was canceled or expired
      4    --timeout is over; the jobs go on
    """
    give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
    farm.patience_s = WAITING_PATIENCE_S
    found = [_awaited(farm, job_id, give_up_at, quiet) for job_id in jobs]
    for job in found:
        click.echo(job.model_dump_json(by_alias=True) if as_json else line(job))
    for job in found:
        if job.status != "succeeded":
            raise JobEnded(job)


def _awaited(farm: Client, job_id: str, give_up_at: float | None, quiet: bool) -> Job:
    """Watched where somebody looks, else held by the farm."""
    left_s = None if give_up_at is None else max(0.0, give_up_at - time.monotonic())
    with JobScreen(quiet) as screen:
        if not screen.seen:
            return farm.wait(job_id, left_s)
        seen = farm.get(job_id)
        for seen in farm.follow(seen, left_s):  # noqa: B020 - the last one is the answer
            screen.show(seen)
        return seen
