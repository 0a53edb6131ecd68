"""`renderfarm models add-lora`: prove a LoRA's file against a model, and say its table."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import click

from shared.catalog import Catalog, load_catalog
from shared.errors import FarmError, ModelError
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import load_settings


@click.command("add-lora")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="What orders call it.  [default: the file's name]")
@click.option(
    "--model", "models", multiple=True, help="A model that it is for.  [default: the farm's]"
)
def add_lora(file: Path, name: str | None, models: tuple[str, ...]) -> None:
    """Check FILE against the model and print its table for models.toml.

    A file that is no safetensors, is damaged, or does not fit is refused, and told why. Only the
    model's configuration is read: where it is not on this machine yet it is downloaded alone.

    \b
    Example:
      renderfarm models add-lora ink.safetensors --model sd3.5-medium >> models.toml
    """
    from worker.engines.lora_file import check_fit, read_lora
    from worker.loading.lora_source import layers_of_model

    settings = load_settings()
    catalog = load_catalog(settings.models_file, settings.default_model)
    entries = [catalog.find(model) for model in models] or [catalog.default]
    try:
        pairs = read_lora(file)
        for entry in entries:
            _check(entry)
            check_fit(pairs, layers_of_model(entry, settings))
    except ModelError as error:
        raise FarmError(f"{file} cannot be added: {error}") from error
    lora = _entry(file, name or re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem), entries)
    _check_free(lora, catalog)
    ranks = sorted({pair.down.shape[0] for pair in pairs.values()})
    told = f"{len(pairs)} layers, rank {', '.join(map(str, ranks))}"
    click.echo(f"{file} fits {', '.join(lora.models)}: {told}", err=True)
    click.echo(table(lora))


def table(lora: LoraEntry) -> str:
    """Its TOML: every value is a string or a list of them, which JSON writes alike."""
    said = {"title": lora.title, "source": lora.source, "sha256": lora.sha256}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in said.items()]
    return "\n".join([f'\n[loras."{lora.name}"]', *lines, f"models = {json.dumps(lora.models)}"])


def _check(entry: ModelEntry) -> None:
    if not entry.takes_loras:
        raise ModelError(
            f"{entry.id} takes no LoRAs with its precision, engine and compile: see docs/loras.md"
        )


def _entry(file: Path, name: str, entries: list[ModelEntry]) -> LoraEntry:
    with file.open("rb") as data:
        sha256 = hashlib.file_digest(data, "sha256").hexdigest()
    try:
        return LoraEntry(
            name=name,
            source=f"file:{file.resolve()}",
            sha256=sha256,
            models=tuple(entry.id for entry in entries),
        )
    except ValueError as error:
        raise click.BadParameter(
            "a name is letters, digits, dots, dashes and underscores", param_hint="--name"
        ) from error


def _check_free(lora: LoraEntry, catalog: Catalog) -> None:
    if lora.name in catalog.loras:
        raise FarmError(f"models.toml has a LoRA {lora.name} already: give another --name")
    for other in catalog.loras.values():
        if other.sha256 == lora.sha256:
            raise FarmError(f"models.toml has this very file already, as {other.name}")
