"""`renderfarm models prefetch`: a model's files into memory, before a worker wants them."""

from __future__ import annotations

import click

from cli.models.meter import gb, meter
from cli.models.named import entry_of, folder_of
from shared.settings import load_settings


@click.command()
@click.argument("model", metavar="NAME|DIR")
def prefetch(model: str) -> None:
    """Read a model's files, several at a time, so that the next load finds them in memory.

    \b
    Example:
      renderfarm models prefetch sd3.5-large
    """
    settings = load_settings()
    entry = entry_of(model, settings)
    folder = folder_of(entry, settings)
    from worker.loading.parts import paths_of
    from worker.loading.prefetch import prefetch as read_all

    files = paths_of(entry, folder)
    with meter(f"prefetch {model}") as progress:
        read = read_all(files, progress)
    click.echo(
        f"{folder}: {len(files)} files, {gb(read.bytes)} in {read.seconds:.1f} s, "
        f"{read.gb_per_s:.2f} GB/s"
    )
