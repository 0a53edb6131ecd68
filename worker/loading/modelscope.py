"""Models from ModelScope or a mirror of it: only the files that loading reads.

Its own client is not used: it sends an identity of the installation with every request, unpickles
cookies from the home folder, and asks the network for a region.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2

from shared.errors import ModelError, ModelUnavailable
from shared.logs import redact
from shared.settings import Settings, variable
from worker.loading.modelscope_files import ATTEMPTS, Repository
from worker.loading.parts import Wanted
from worker.loading.progress import Progress, Tally, unseen

ENDPOINT = "https://www.modelscope.cn"
MAIN_BRANCH = "master"
_TIMEOUT_S = 30.0  # without a byte
_AT_ONCE = 4
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def folder_of(repo: str, revision: str, settings: Settings) -> Path:
    """Where a download lies. Raises ModelError for a name that is no repository's."""
    if not _NAME.fullmatch(repo):
        raise ModelError(f"{repo!r} is no repository name: it is OWNER/NAME")
    branch = (revision or MAIN_BRANCH).replace("/", "--")
    return settings.cache_dir / "modelscope" / repo.replace("/", "--") / branch


def local_copy(repo: str, revision: str, settings: Settings) -> Path | None:
    """What an earlier download left, perhaps not all of it; None if nothing. No network."""
    folder = folder_of(repo, revision, settings)
    return folder if folder.is_dir() else None


def download(
    repo: str, revision: str, wanted: Wanted, settings: Settings, progress: Progress = unseen
) -> Path:
    """Fetch what is missing and return the folder. Raises ModelError, ModelUnavailable."""
    folder = folder_of(repo, revision, settings)
    page = f"{settings.modelscope_endpoint or ENDPOINT}/models/{repo}"
    try:
        with _client(settings) as client, _alone(folder):
            _fetch(Repository(client, repo, revision or MAIN_BRANCH), wanted, folder, progress)
    except httpx2.HTTPStatusError as error:
        raise ModelUnavailable(redact(_refusal(error, page, revision))) from error
    except httpx2.RemoteProtocolError as error:
        why = f"{page} broke off {ATTEMPTS} times: try again, what has arrived is kept"
        raise ModelUnavailable(redact(why)) from error
    except httpx2.TransportError as error:
        why = f"no network: {page} cannot be reached, and there is no whole copy on this machine"
        raise ModelUnavailable(redact(why)) from error
    except (OSError, ValueError, KeyError, TypeError, httpx2.HTTPError) as error:
        why = f"{page} cannot be downloaded: {type(error).__name__}: {error}".splitlines()[0]
        raise ModelUnavailable(redact(why)) from error
    return folder


def _client(settings: Settings) -> httpx2.Client:
    token = settings.modelscope_token
    known = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    return httpx2.Client(
        base_url=settings.modelscope_endpoint or ENDPOINT,
        headers={"Accept-Encoding": "identity", **known},  # lengths are those of the files
        follow_redirects=True,  # to the object storage, without the token
        timeout=_TIMEOUT_S,
    )


def _refusal(error: httpx2.HTTPStatusError, page: str, revision: str) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return (
            f"the download was refused: {page} is not open to everybody; "
            f"give a token of an account that may read it in {variable('modelscope_token')}"
        )
    if status == 404:
        return f"there is no {page}, or it has no revision {revision or MAIN_BRANCH!r}"
    return f"{page} cannot be downloaded: it answers {status} {error.response.reason_phrase}"


def _fetch(source: Repository, wanted: Wanted, folder: Path, progress: Progress) -> None:
    files = [file for file in source.files() if wanted.takes(file.name)]
    missing = [file for file in files if not file.is_in(folder)]
    tally = Tally(progress, total_bytes=sum(file.size_bytes for file in files))
    tally.add(sum(file.size_bytes for file in files if file not in missing))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
        waits = [pool.submit(source.fetch, file, folder, tally) for file in missing]
        try:
            for each in waits:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: a second one waits, and then finds the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
