"""`renderfarm models bake`: a folder that loads fast, out of a model."""

from __future__ import annotations

from pathlib import Path

import click

from cli.models.meter import gb, meter
from cli.models.named import NOT_IN_THE_FILE, entry_of, folder_of, need_worker
from shared.settings import load_settings


@click.command()
@click.argument("model", metavar="NAME|DIR")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--shard", default="2GB", show_default=True, help="Largest file of weights.")
def bake(model: str, folder: Path, shard: str) -> None:
    """Write a model to FOLDER as its workers hold it, and print the entry that serves it.

    In its own precision (quantized already, if it is one that quantizes), no more parts than it
    reads, in shards that load side by side, with a manifest. The pictures are the same to the bit;
    yet the entry has another digest, since its source is another, so nothing that is stored answers
    for it.

    \b
    Example:
      renderfarm models bake sd3.5-large /srv/models/large-bf16
    """
    settings = load_settings()
    entry = entry_of(model, settings)
    need_worker("torch", "diffusers")
    from worker.loading.quiet import quiet_libraries

    quiet_libraries()
    from worker.loading.bake import as_toml
    from worker.loading.bake import bake as baked_from
    from worker.loading.devices import pick_device

    device = pick_device(settings.device)
    source = folder_of(entry, settings)
    with meter("write its manifest") as progress:
        baked = baked_from(entry, source, folder, device=device, shard=shard, progress=progress)
    size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    click.echo(f"# {folder}: {gb(size_bytes)}. For models.toml:")
    if entry.id == NOT_IN_THE_FILE:
        baked = baked.model_copy(update={"id": folder.name})
    click.echo(as_toml(baked))
