"""From a model entry to a folder on this machine that can be loaded."""

from __future__ import annotations

from pathlib import Path

from shared.errors import ModelError
from shared.models import ModelEntry
from shared.settings import Settings
from worker.loading import hub, modelscope, tiny
from worker.loading.parts import Wanted, gguf_of, wanted_by
from worker.loading.preflight import check, preflight
from worker.loading.progress import Progress, unseen
from worker.loading.steps import Report, step, untold


def locate(
    entry: ModelEntry, settings: Settings, report: Report = untold, progress: Progress = unseen
) -> Path:
    """The model's diffusers folder: found, downloaded or built, then checked without reading weights.

    Raises ModelError, or ModelUnavailable when a download is refused or there is no network.
    """
    if entry.source.startswith("dir:"):
        report("download", "skipped")
        folder = Path(entry.source.removeprefix("dir:")).expanduser()
    else:
        with step("download", report):
            folder = _fetched(entry, settings, progress)
    with step("preflight", report):
        check(folder, wanted_by(entry), gguf_of(entry, folder))
    return folder


def present(entry: ModelEntry, settings: Settings) -> Path | None:
    """The model's folder if it is there, whole or not. No network, and nothing is built."""
    kind, _, rest = entry.source.partition(":")
    if kind == "dir":
        folder = Path(rest).expanduser()
        return folder if folder.is_dir() else None
    if kind == "tiny":
        folder = _tiny_folder(*tiny_options(rest), settings)
        return folder if folder.is_dir() else None
    return _local_copy(entry, rest, wanted_by(entry), settings)


def tiny_options(text: str) -> tuple[str, int]:
    """`size=small,seed=3` as (size, seed). Raises ModelError."""
    options = {"size": "normal", "seed": "0"}
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        if name not in options:
            raise ModelError(f"a tiny model has no option {name!r}; it has size and seed")
        options[name] = value
    size, seed = options["size"], options["seed"]
    if size not in tiny.SIZES:
        raise ModelError(f"a tiny model's size is one of {', '.join(tiny.SIZES)}, not {size!r}")
    if not (seed.isascii() and seed.isdigit()):
        raise ModelError(f"a tiny model's seed is a whole number, not {seed!r}")
    return size, int(seed)


def _fetched(entry: ModelEntry, settings: Settings, progress: Progress) -> Path:
    """The local copy if it is whole, without any network; else what is missing is downloaded."""
    kind, _, rest = entry.source.partition(":")
    if kind == "tiny":
        size, seed = tiny_options(rest)
        return tiny.build(_tiny_folder(size, seed, settings), size=size, seed=seed)
    wanted = wanted_by(entry)
    have = _local_copy(entry, rest, wanted, settings)
    if have:
        faults = preflight(have, wanted, gguf_of(entry, have))
        if not faults:
            return have
        for fault in faults:
            if fault.file:
                _forget(have / fault.file)
    download = hub.download if kind == "hf" else modelscope.download
    return download(rest, entry.revision, wanted, settings, progress)


def _forget(file: Path) -> None:
    """Take a damaged file out of a downloaded copy, with what its link leads to: it comes again."""
    file.resolve().unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _local_copy(entry: ModelEntry, repo: str, wanted: Wanted, settings: Settings) -> Path | None:
    if entry.source.startswith("hf:"):
        return hub.local_copy(repo, entry.revision, wanted, settings)
    return modelscope.local_copy(repo, entry.revision, settings)


def _tiny_folder(size: str, seed: int, settings: Settings) -> Path:
    return settings.cache_dir / f"tiny-{size}-{seed}-v{tiny.VERSION}"
