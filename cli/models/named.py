"""Which model a command of `renderfarm models` means, and where it lies."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from shared.catalog import load_catalog
from shared.errors import FarmError, InvalidOrder, ModelError
from shared.models import ModelEntry
from shared.settings import Settings

SOURCES = ("hf:", "modelscope:", "dir:", "tiny:")
NOT_IN_THE_FILE = "unnamed"  # the id of a source or folder that no entry names


def entry_of(name: str, settings: Settings, **fields: str) -> ModelEntry:
    """The entry called `name`; or one made for a source or a folder. Raises ModelError.

    `fields` are laid over it where they are given.
    """
    given = {field: value for field, value in fields.items() if value}
    if name.startswith(SOURCES):
        return ModelEntry(id=NOT_IN_THE_FILE, source=name).model_copy(update=given)
    try:
        entry = load_catalog(settings.models_file, settings.default_model).find(name)
    except InvalidOrder:
        if not Path(name).is_dir():
            raise
        entry = ModelEntry(id=NOT_IN_THE_FILE, source=f"dir:{name}")
    return entry.model_copy(update=given)


def folder_of(entry: ModelEntry, settings: Settings) -> Path:
    """Where it lies on this machine. Raises ModelError where it does not."""
    need_worker("huggingface_hub")
    from worker.loading.locate import present

    folder = present(entry, settings)
    if folder is None:
        name = entry.source if entry.id == NOT_IN_THE_FILE else entry.id
        raise ModelError(
            f"{name} is not on this machine: fetch it with `renderfarm models pull {name}`"
        )
    return folder


def need_worker(*packages: str) -> None:
    """Raises FarmError on an installation that only serves the API."""
    if any(find_spec(package) is None for package in packages):
        raise FarmError("this command needs the worker's packages: install renderfarm[worker]")
