"""Models from Hugging Face or a mirror of it: only the files that loading reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)

from shared.errors import ModelError, ModelUnavailable
from shared.logs import redact
from shared.settings import Settings, variable

_KINDS = ("json", "safetensors", "txt", "model")
_REFUSED = (401, 403)


def local_copy(repo: str, revision: str, parts: tuple[str, ...], settings: Settings) -> Path | None:
    """What an earlier download left, perhaps not all of it; None if nothing. No network."""
    try:
        return _snapshot(repo, revision, parts, settings, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ModelError(f"{repo!r} is no repository name: {error}") from error


def download(repo: str, revision: str, parts: tuple[str, ...], settings: Settings) -> Path:
    """Fetch what is missing and return the folder. Raises ModelUnavailable."""
    try:
        return _snapshot(repo, revision, parts, settings)
    except Exception as error:  # the hub's, httpx's and the disk's: the client lets all through
        page = f"{settings.hf_endpoint or 'https://huggingface.co'}/{repo}"
        raise ModelUnavailable(redact(_why(error, page, revision))) from error  # all see /status


def _why(error: BaseException, page: str, revision: str) -> str:
    if isinstance(error, LocalEntryNotFoundError):
        if isinstance(error.__cause__, HfHubHTTPError):  # the hub's answer, wrapped
            return _why(error.__cause__, page, revision)
        return f"no network: {page} cannot be reached, and there is no whole copy on this machine"
    if isinstance(error, RevisionNotFoundError):
        return f"{page} has no revision {revision!r}"
    if isinstance(error, GatedRepoError) or _status(error) in _REFUSED:
        return (
            f"the download was refused: log in and accept the licence on the model page {page}, "
            f"then give a token of that account in {variable('hf_token')}"
        )
    return f"{page} cannot be downloaded: " + f"{type(error).__name__}: {error}".splitlines()[0]


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _snapshot(
    repo: str, revision: str, parts: tuple[str, ...], settings: Settings, **how: Any
) -> Path:
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    folder = snapshot_download(
        repo,
        revision=revision or None,
        cache_dir=settings.cache_dir,
        endpoint=settings.hf_endpoint,
        token=token,
        # By part: the root and `text_encoders/` hold the same weights again, as single files.
        allow_patterns=["model_index.json", *(f"{p}/*.{kind}" for p in parts for kind in _KINDS)],
        ignore_patterns=["*fp16*"],
        **how,
    )
    return Path(folder)
