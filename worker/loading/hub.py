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
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from shared.errors import ModelError, ModelUnavailable
from shared.logs import redact
from shared.settings import Settings, variable
from worker.loading.parts import Wanted
from worker.loading.progress import Progress, unseen

_REFUSED = (401, 403)


def local_copy(repo: str, revision: str, wanted: Wanted, settings: Settings) -> Path | None:
    """What an earlier download left, perhaps not all of it; None if nothing. No network."""
    try:
        return _snapshot(repo, revision, wanted, settings, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ModelError(f"{repo!r} is no repository name: {error}") from error


def download(
    repo: str, revision: str, wanted: Wanted, settings: Settings, progress: Progress = unseen
) -> Path:
    """Fetch what is missing and return the folder. Raises ModelUnavailable."""
    try:
        return _snapshot(repo, revision, wanted, settings, tqdm_class=_bar(progress))
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
    if isinstance(error, RepositoryNotFoundError) and _status(error) not in _REFUSED:
        return f"there is no model {page}, or none that this farm's token may see"
    if isinstance(error, GatedRepoError) or _status(error) in _REFUSED:
        return (
            f"the download was refused: log in and accept the licence on the model page {page}, "
            f"then give a token of that account in {variable('hf_token')}"
        )
    return f"{page} cannot be downloaded: " + f"{type(error).__name__}: {error}".splitlines()[0]


def _status(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def token_of(settings: Settings) -> str | bool | None:
    """Without one of the farm's, this machine's login counts; but no mirror is told of that."""
    if settings.hf_token:
        return settings.hf_token.get_secret_value()
    return False if settings.hf_endpoint else None


def _snapshot(repo: str, revision: str, wanted: Wanted, settings: Settings, **how: Any) -> Path:
    folder = snapshot_download(
        repo,
        revision=revision or None,
        cache_dir=settings.cache_dir,
        endpoint=settings.hf_endpoint,
        token=token_of(settings),
        allow_patterns=wanted.patterns,
        ignore_patterns=wanted.refused,
        **how,
    )
    return Path(folder)


def _bar(progress: Progress) -> type[tqdm]:
    """The client tells what it does to a class of progress bar; this one shows nothing itself."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._tells = options.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self._tells:  # of several bars, the one of bytes on disk
                self.n += n or 0
                progress(int(self.n), int(self.total or 0))

    return Bar
