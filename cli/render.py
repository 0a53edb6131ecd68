"""`renderfarm render`: order a job over HTTP, watch it, keep its pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from cli.options import WAITING_PATIENCE_S, farm_options
from cli.orders import order_options, orders
from cli.screen import JobScreen
from renderfarm_client import Client, Image, Job, JobEnded, RenderFarmError, StillRunning
from renderfarm_client.pictures import name, write
from shared.errors import FarmError


class TooSlow(FarmError):
    """The job did not end in time."""

    exit_code = 4


@click.command()
@order_options
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
    show_default=True, help="Folder for the pictures.",
)  # fmt: skip
@farm_options
@click.option(
    "--timeout", "timeout_s", type=float, help="Wait so many seconds.  [default: for ever]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each job.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks.")
def render(
    farm: Client, out: Path, timeout_s: float | None, as_json: bool, quiet: bool, **fields: Any
) -> None:
    """Order PROMPT from a farm, wait, and save the pictures.

    Prints one line for each picture: its path, its seed, and `cached` if it was rendered before.
    PROMPT of `-`: one job for each line of stdin. Ctrl-C cancels what is not done.

    \b
    Example:
      renderfarm render "a lighthouse at dusk" --seed 42 --steps 12 -n 2 -o out/
      renderfarm render - --steps 20 < prompts.txt
    \b
    Exit codes:
      0    all pictures are saved
      1    the job failed, was canceled or expired; finished pictures are saved
      2    wrong usage, or the farm refuses the order
      3    the farm cannot be reached
      4    --timeout is over; the job goes on
      130  Ctrl-C
    """
    give_up_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    jobs: list[Job] = []
    with canceling(farm, jobs), JobScreen(quiet) as screen:
        for order in orders(**fields):
            jobs.append(farm.submit(order))
        farm.patience_s = WAITING_PATIENCE_S
        if not quiet:
            _remark(farm, jobs[0], screen)
        for place, job in enumerate(jobs):
            jobs[place] = follow(farm, job, Take(out, as_json), screen, give_up_at)
    for job in jobs:
        if job.status != "succeeded":
            raise JobEnded(job)


@dataclass(slots=True)
class Take:
    """What is brought home: pictures on disk, their lines on stdout."""

    folder: Path
    as_json: bool
    paths: dict[int, Path] = field(default_factory=dict)

    def collect(self, farm: Client, job: Job) -> None:
        """Save the pictures that are finished and not yet here."""
        for image in job.images:
            if image.url and image.status == "succeeded" and image.index not in self.paths:
                path = self.folder / name(job, image)
                save(path, farm.picture(image))
                self.paths[image.index] = path
                if not self.as_json:
                    click.echo(f"{path}\tseed {image.seed}" + "\tcached" * image.cached)

    def report(self, job: Job) -> None:
        if self.as_json:
            shown = {"job": job.id, "status": job.status, "cached": job.cached}
            shown["images"] = [self._entry(image) for image in job.images]
            shown["error"] = job.error.model_dump() if job.error else None
            click.echo(json.dumps(shown))

    def _entry(self, image: Image) -> dict[str, Any]:
        path = self.paths.get(image.index)
        fields = image.model_dump(include={"index", "seed", "status", "cached", "error"})
        return fields | {"path": str(path) if path else None}


def follow(farm: Client, job: Job, take: Take, screen: JobScreen, give_up_at: float) -> Job:
    """Look until the job is done, saving pictures as they finish. Raises TooSlow."""
    try:
        for job in farm.follow(job, give_up_at - time.monotonic()):  # noqa: B020 - the last one is the answer
            screen.show(job)
            take.collect(farm, job)
    except StillRunning as error:
        raise TooSlow(f"{error}; see {farm.url}/jobs/{job.id}") from error
    finally:
        take.report(job)
    return job


def save(path: Path, picture: bytes) -> None:
    """Write the whole file or none of it. Raises FarmError."""
    try:
        write(path, picture)
    except OSError as error:
        raise FarmError(f"cannot save {path}: {error.strerror}") from error


@contextmanager
def canceling(farm: Client, jobs: list[Job]) -> Iterator[None]:
    """Ctrl-C cancels the jobs that are not done, and ends with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        farm.patience_s = 2.0
        for job in jobs:
            if not job.done:
                with suppress(RenderFarmError):  # it may have finished
                    farm.cancel(job)
                click.echo(f"renderfarm: {job.id} canceled", err=True)
        sys.exit(130)


def _remark(farm: Client, job: Job, screen: JobScreen) -> None:
    with suppress(RenderFarmError):  # a remark is not worth an error
        if farm.model(job.input.get("model", "")).random_weights:
            screen.say(f"model {job.input['model']} has random weights: whatever it draws is noise")
