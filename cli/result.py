"""`renderfarm result`: the pictures of a job."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import farm_options
from renderfarm_client import Client, Job, JobEnded, StillRunning
from shared.errors import FarmError


@click.command()
@click.argument("job")
@click.option(
    "-o", "--out", default="out", show_default=True,
    help="Folder for the pictures; `-`: write one to stdout.",
)  # fmt: skip
@click.option("--index", type=click.IntRange(0), help="Only this image.  [default: all]")
@farm_options
def result(farm: Client, job: str, out: str, index: int | None) -> None:
    """Save the pictures of JOB that are finished; print their paths.

    \b
    Example:
      renderfarm result job_01JD8QZ4M3N5P7R9S1T3V5W7X9 -o out/
      renderfarm result job_01JD8QZ4M3N5P7R9S1T3V5W7X9 --index 0 -o - > fox.png
    \b
    Exit codes:
      0    every picture asked for is saved
      1    an image failed, was canceled or expired; what is finished is saved
      4    the job is not done; what is finished is saved
    """
    seen = farm.get(job)
    images = [image for image in seen.images if index is None or image.index == index]
    if not images:
        raise click.BadParameter(f"the job has {len(seen.images)} images", param_hint="--index")
    if out == "-":
        if len(images) > 1:
            raise click.UsageError("-o - writes one picture: say which with --index")
        images = [image for image in images if image.status == "succeeded"]
        for image in images:
            click.echo(farm.picture(image), nl=False)
    else:
        for path in _saved(farm, seen.model_copy(update={"images": tuple(images)}), Path(out)):
            click.echo(path)
    if not all(image.status == "succeeded" for image in images) or not images:
        raise JobEnded(seen) if seen.done else StillRunning(seen)


def _saved(farm: Client, job: Job, folder: Path) -> tuple[Path, ...]:
    try:
        return farm.save(job, folder)
    except OSError as error:
        raise FarmError(f"cannot save into {folder}: {error.strerror}") from error
