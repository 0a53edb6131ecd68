"""`renderfarm models make-tiny`: a model to try the farm with."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("make-tiny")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", default="normal", show_default=True, help="small, normal or large.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
def make_tiny(folder: Path, size: str, seed: int) -> None:
    """Build a tiny SD3.5 of random weights in FOLDER. Whatever it draws is noise.

    \b
    Example:
      renderfarm models make-tiny my-tiny --size small
    """
    from worker.loading.tiny import build

    build(folder, size=size, seed=seed)
    size_mb = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    click.echo(f"{folder}: a tiny SD3.5 of size {size}, seed {seed}, {size_mb:.1f} MB")
    click.echo("Its weights are random: whatever it draws is noise.")
    click.echo(
        f'To serve it, put  source = "dir:{folder.resolve()}"  into an entry of models.toml.'
    )
