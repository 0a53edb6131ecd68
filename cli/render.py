"""`renderfarm render`: order a job over HTTP, watch it, keep its pictures."""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from cli.answers import Image, Job
from cli.client import FarmClient
from cli.options import farm_options
from cli.screen import JobScreen
from shared.errors import FarmError
from shared.jobs import JobStatus, RenderState

SUFFIX = {"png": "png", "webp": "webp", "jpeg": "jpg"}


class JobEnded(FarmError):
    """The job ended without all of its pictures."""

    exit_code = 1


class TooSlow(FarmError):
    """The job did not end in time."""

    exit_code = 4


@click.command()
@click.argument("prompt")
@click.option("--negative", "negative_prompt", help="What the picture should not show.")
@click.option("-n", "n", type=click.IntRange(1), default=1, show_default=True, help="Images.")
@click.option("--seed", type=int, help="Image k has seed + k.  [default: drawn]")
@click.option("--size", metavar="WxH", help="Pixels, such as 1024x768.  [default: the model's]")
@click.option("--steps", type=int, help="Denoising steps.  [default: the model's]")
@click.option("--guidance", "guidance_scale", type=float, help="CFG.  [default: the model's]")
@click.option("--model", help="A model of `GET /models`.  [default: the farm's]")
@click.option(
    "--format", "output_format", type=click.Choice(list(SUFFIX)), default="png", show_default=True
)
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="[default: normal]")
@click.option("--no-cache", is_flag=True, help="Render again what was rendered before.")
@click.option(
    "-o", "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
    show_default=True, help="Folder for the pictures.",
)  # fmt: skip
@farm_options
@click.option(
    "--timeout", "timeout_s", type=float, help="Wait so many seconds.  [default: for ever]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no remarks.")
def render(
    out: Path, url: str, key: str | None, timeout_s: float | None, as_json: bool, quiet: bool,
    no_cache: bool, **fields: Any,
) -> None:  # fmt: skip
    """Order PROMPT from a farm, wait, and save the pictures.

    Prints one line for each picture: its path, its seed, and `cached` if it was rendered before.
    Ctrl-C cancels the job.

    \b
    Example:
      renderfarm render "a lighthouse at dusk" --seed 42 --steps 12 -n 2 -o out/
    \b
    Exit codes:
      0    all pictures are saved
      1    the job failed, was canceled or expired; finished pictures are saved
      2    wrong usage, or the farm refuses the order
      3    the farm cannot be reached
      4    --timeout is over; the job goes on
      130  Ctrl-C
    """
    order = {name: value for name, value in fields.items() if value is not None}
    order |= {"cache": "bypass"} if no_cache else {}
    take = Take(out, SUFFIX[order["output_format"]], as_json)
    give_up_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")
    with FarmClient(url, key) as client, JobScreen(quiet) as screen:
        job = client.submit(order, idempotency_key=str(uuid.uuid4()))
        with canceling(client, job):
            if not quiet:
                _remark(client, job, screen)
            job = follow(client, job, take, screen, give_up_at)
    _judge(job)


@dataclass(slots=True)
class Take:
    """What is brought home: pictures on disk, their lines on stdout."""

    folder: Path
    suffix: str
    as_json: bool
    paths: dict[int, Path] = field(default_factory=dict)

    def collect(self, client: FarmClient, job: Job) -> None:
        """Save the pictures that are finished and not yet here."""
        for image in job.images:
            if (
                image.url
                and image.status is RenderState.succeeded
                and image.index not in self.paths
            ):
                path = self.folder / f"{job.id}-{image.index}-{image.seed}.{self.suffix}"
                save(path, client.download(image.url))
                self.paths[image.index] = path
                if not self.as_json:
                    click.echo(f"{path}\tseed {image.seed}" + "\tcached" * image.cached)

    def report(self, job: Job) -> None:
        if self.as_json:
            shown = {"job": job.id, **job.model_dump(mode="json", include={"status", "cached"})}
            shown["images"] = [self._entry(image) for image in job.images]
            shown["error"] = job.error.model_dump() if job.error else None
            click.echo(json.dumps(shown))

    def _entry(self, image: Image) -> dict[str, Any]:
        path = self.paths.get(image.index)
        fields = image.model_dump(
            mode="json", include={"index", "seed", "status", "cached", "error"}
        )
        return fields | {"path": str(path) if path else None}


def follow(client: FarmClient, job: Job, take: Take, screen: JobScreen, give_up_at: float) -> Job:
    """Look until the job is done, saving pictures as they finish. Raises TooSlow, Unreachable."""
    try:
        while True:
            screen.show(job)
            take.collect(client, job)
            if job.done:
                return job
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise TooSlow(
                    f"{job.id} is still {job.status} and goes on; see {client.url}/jobs/{job.id}"
                )
            time.sleep(min(job.poll_s, left_s))
            job = client.job(job.id)
    finally:
        take.report(job)


def save(path: Path, picture: bytes) -> None:
    """Write the whole file or none of it. Raises FarmError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(picture)
        part.replace(path)
    except OSError as error:
        raise FarmError(f"cannot save {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def canceling(client: FarmClient, job: Job) -> Iterator[None]:
    """Ctrl-C cancels the job and ends with code 130."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(FarmError):  # it may have finished
            client.cancel(job.id)
        click.echo(f"renderfarm: {job.id} canceled", err=True)
        sys.exit(130)


def _remark(client: FarmClient, job: Job, screen: JobScreen) -> None:
    model = job.input.get("model", "")
    with suppress(FarmError):  # a remark is not worth an error
        if client.random_weights(model):
            screen.say(f"model {model} has random weights: whatever it draws is noise")


def _judge(job: Job) -> None:
    if job.status is not JobStatus.succeeded:
        ended = "was canceled" if job.status is JobStatus.canceled else job.status
        why = f": {job.error.message} ({job.error.code})" if job.error else ""
        raise JobEnded(f"{job.id} {ended}{why}")
