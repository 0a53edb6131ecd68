"""Models from ModelScope or a mirror of it, over the two routes of its file API.

Its own client is not used: it sends an identity of the installation with every request, unpickles
cookies from the home folder, and asks the network for a region.
"""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import httpx2

from shared.errors import ModelError, ModelUnavailable
from shared.logs import redact
from shared.settings import Settings, variable
from worker.loading.manifest import sha256_of
from worker.loading.parts import Wanted
from worker.loading.progress import Progress, Tally, unseen

ENDPOINT = "https://www.modelscope.cn"
MAIN_BRANCH = "master"
ATTEMPTS = 4
PAUSE_S = 1.0  # before the second attempt; it doubles
_TIMEOUT_S = 30.0  # without a byte
_AT_ONCE = 4
T = TypeVar("T")
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@dataclass(slots=True, frozen=True)
class _File:
    name: str
    size_bytes: int
    sha256: str  # empty where the service does not say


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
            _fetch(client, repo, revision or MAIN_BRANCH, wanted, folder, progress)
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


def _fetch(
    client: httpx2.Client,
    repo: str,
    revision: str,
    wanted: Wanted,
    folder: Path,
    progress: Progress,
) -> None:
    files = [file for file in _listed(client, repo, revision) if wanted.takes(file.name)]
    missing = [file for file in files if not _there(file, folder)]
    have = sum(file.size_bytes for file in files if file not in missing)
    tally = Tally(progress, total_bytes=sum(file.size_bytes for file in files))
    tally.add(have)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
        waits = [pool.submit(_get, client, repo, revision, f, folder, tally) for f in missing]
        try:
            for each in waits:
                each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _listed(client: httpx2.Client, repo: str, revision: str) -> list[_File]:
    query = {"Revision": revision, "Recursive": "True"}
    answer = _patiently(lambda: _asked(client, f"/api/v1/models/{repo}/repo/files", query))
    files = [file for file in answer["Data"]["Files"] if file.get("Type", "blob") == "blob"]
    return [_File(_safe(f["Path"]), int(f["Size"]), str(f.get("Sha256") or "")) for f in files]


def _asked(client: httpx2.Client, path: str, query: dict[str, str]) -> Any:
    response = client.get(path, params=query)
    response.raise_for_status()
    return response.json()


def _safe(name: str) -> str:
    """A server's name of a file, refused where it leads out of the folder. Raises ValueError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it lists a file {name!r}")
    return name


def _there(file: _File, folder: Path) -> bool:
    """A file is renamed into place when it is whole, so its length tells."""
    place = folder / file.name
    return place.is_file() and place.stat().st_size == file.size_bytes


def _get(
    client: httpx2.Client, repo: str, revision: str, file: _File, folder: Path, tally: Tally
) -> None:
    place = folder / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(place.name + ".incomplete")
    query = {"Revision": revision, "FilePath": file.name}
    url = f"/api/v1/models/{repo}/repo"
    tally.add(_size_bytes(partial))
    _patiently(lambda: _go_on(client, url, query, partial, file, tally))
    if not _is(partial, file):
        partial.unlink()
        raise ValueError(f"{file.name} arrived as another file than it is listed as")
    partial.replace(place)


def _go_on(
    client: httpx2.Client, url: str, query: dict[str, str], partial: Path, file: _File, tally: Tally
) -> None:
    """Fetch what `partial` lacks. Raises TransportError where the connection ends before the file."""
    have = _size_bytes(partial)
    if have >= file.size_bytes > 0:
        return
    wants = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", url, params=query, headers=wants) as response:
        response.raise_for_status()
        goes_on = response.status_code == httpx2.codes.PARTIAL_CONTENT
        if not goes_on:
            tally.add(-have)
        with partial.open("ab" if goes_on else "wb") as opened:
            for piece in response.iter_bytes():
                opened.write(piece)
                tally.add(len(piece))
    if _size_bytes(partial) < file.size_bytes:
        raise httpx2.RemoteProtocolError(f"{file.name} was cut short")


def _patiently(ask: Callable[[], T]) -> T:
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask()
        except (httpx2.TransportError, httpx2.HTTPStatusError) as error:
            if not _may_pass(error):
                raise
        time.sleep(PAUSE_S * 2**attempt)
    return ask()


def _may_pass(error: httpx2.HTTPError) -> bool:
    return not isinstance(error, httpx2.HTTPStatusError) or error.response.is_server_error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time: a second one waits, and then finds the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _size_bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _is(partial: Path, file: _File) -> bool:
    if _size_bytes(partial) != file.size_bytes:
        return False
    return not file.sha256 or sha256_of(partial) == file.sha256
