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
    page = f"{settings.hf_endpoint or 'https://huggingface.co'}/{repo}"
    try:
        return _snapshot(repo, revision, parts, settings)
    except RevisionNotFoundError as error:
        raise ModelUnavailable(f"{page} has no revision {revision!r}") from error
    except HfHubHTTPError as error:
        if isinstance(error, GatedRepoError) or error.response.status_code in _REFUSED:
            raise ModelUnavailable(_refused(page)) from error
        raise ModelUnavailable(f"{page} cannot be downloaded: {_first_line(error)}") from error
    except LocalEntryNotFoundError as error:
        raise ModelUnavailable(
            f"no network: {page} cannot be reached, and there is no whole copy in "
            f"{settings.cache_dir}"
        ) from error
    except Exception as error:  # httpx's and the disk's: the client lets them all through
        raise ModelUnavailable(f"{page} cannot be downloaded: {_first_line(error)}") from error


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


def _refused(page: str) -> str:
    return (
        f"the download was refused: log in and accept the licence on the model page {page}, "
        f"then give a token of that account in {variable('hf_token')}"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
