"""Where a LoRA's file lies: on this machine, or on Hugging Face or a mirror of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from shared.errors import ModelError, ModelUnavailable
from shared.jobs import LoraRef
from shared.logs import redact
from shared.loras import LoraEntry
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.lora_file import Pair, layers_of, read_lora
from worker.loading.hub import token_of
from worker.loading.locate import locate

_CONFIG = "transformer/config.json"


def reader(
    loras: Mapping[str, LoraEntry], settings: Settings
) -> Callable[[LoraRef], dict[str, Pair]]:
    """Reads the file that an order means, by its hash: names may have changed since."""
    by_hash = {lora.sha256: lora for lora in loras.values()}

    def read(ref: LoraRef) -> dict[str, Pair]:
        if ref.sha256 not in by_hash:
            raise ModelError("the models.toml of this worker has no file of its SHA-256")
        return read_lora(locate_lora(by_hash[ref.sha256], settings), ref.sha256)

    return read


def locate_lora(lora: LoraEntry, settings: Settings) -> Path:
    """Downloads it where it must. Raises ModelError, ModelUnavailable; their words name no path."""
    kind, _, rest = lora.source.partition(":")
    if kind == "file":
        return Path(rest).expanduser()
    owner, repo, name = rest.split("/", 2)
    return fetch_file(f"{owner}/{repo}", name, lora.revision, settings)


def fetch_file(repo: str, name: str, revision: str, settings: Settings) -> Path:
    """One file of a repository; the local copy if there is one, without any network.

    Raises ModelUnavailable.
    """
    where: dict[str, Any] = {
        "revision": revision or None,
        "cache_dir": settings.cache_dir,
        "endpoint": settings.hf_endpoint,
        "token": token_of(settings),
    }
    try:
        return Path(hf_hub_download(repo, name, **where, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(hf_hub_download(repo, name, **where))
    except Exception as error:  # the hub's, httpx's and the disk's: the client lets all through
        why = redact(f"{type(error).__name__}: {error}".splitlines()[0])
        raise ModelUnavailable(f"{name} of {repo} cannot be downloaded: {why}") from error


def layers_of_model(entry: ModelEntry, settings: Settings) -> dict[str, tuple[int, int]]:
    """The linear layers of a model's transformer, made of its configuration alone.

    Raises ModelError, ModelUnavailable.
    """
    import torch
    from diffusers import SD3Transformer2DModel

    config = json.loads(_config_of(entry, settings).read_text("utf-8"))
    with torch.device("meta"):
        return layers_of(SD3Transformer2DModel.from_config(config))


def _config_of(entry: ModelEntry, settings: Settings) -> Path:
    kind, _, rest = entry.source.partition(":")
    if kind == "hf":
        return fetch_file(rest, _CONFIG, entry.revision, settings)
    return locate(entry, settings) / _CONFIG
