"""`renderfarm models pull`: a model's weights onto this machine."""

from __future__ import annotations

from pathlib import Path

import click

from cli.models.meter import gb, meter
from cli.models.named import entry_of, need_worker
from shared.errors import FarmError, ModelUnavailable
from shared.settings import load_settings


class NotFetched(FarmError):
    """The service refused, has no such model, or cannot be reached."""

    exit_code = 3


@click.command()
@click.argument("model", metavar="NAME|SOURCE")
@click.option(
    "--revision", help="Branch, tag or commit.  [default: the entry's, else the main one]"
)
@click.option("--t5", type=click.Choice(["on", "off"]), help="off: without the third text encoder.")
def pull(model: str, revision: str | None, t5: str | None) -> None:
    """Download what a model's workers read, then check it.

    NAME is a model of models.toml; SOURCE is hf:OWNER/NAME or modelscope:OWNER/NAME. What is there
    already is not fetched again, and a broken download goes on where it stopped. A worker that
    starts afterwards needs no network.

    \b
    Example:
      renderfarm models pull sd3.5-medium
      renderfarm models pull modelscope:AI-ModelScope/stable-diffusion-3.5-medium --t5 off
    Exit codes: 0 it is there and whole; 1 what came is damaged; 2 wrong usage;
      3 it was not fetched (refused, not found, no network)
    """
    settings = load_settings()
    entry = entry_of(model, settings, revision=revision or "", t5=t5 or "")
    need_worker("huggingface_hub")
    from worker.loading.locate import locate
    from worker.loading.parts import files_of, wanted_by

    try:
        with meter(f"pull {model}") as progress:
            folder = locate(entry, settings, progress=progress)
    except ModelUnavailable as error:
        raise NotFetched(str(error)) from error
    names = files_of(folder, wanted_by(entry))
    if not entry.source.startswith("dir:"):  # that folder is somebody else's
        _write_manifest(folder, names)
    size_bytes = sum((folder / name).stat().st_size for name in names)
    click.echo(f"{folder}: {len(names)} files, {gb(size_bytes)}, whole")


def _write_manifest(folder: Path, names: list[str]) -> None:
    from worker.loading import manifest

    try:
        with meter("write its manifest") as progress:
            manifest.write(folder, names, progress)
    except OSError as error:  # a cache that is mounted read-only
        click.echo(f"renderfarm: no manifest was written: {error}", err=True)
