"""`renderfarm.sha256`: what every file of a model folder was when it arrived. `sha256sum -c` reads it.

Headers and lengths cannot tell a bit that turned over; this can.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from worker.loading.findings import Findings
from worker.loading.progress import Progress, Tally, unseen

NAME = "renderfarm.sha256"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write(folder: Path, names: Iterable[str], progress: Progress = unseen) -> None:
    """Add the files `names` of the folder. What is listed stays as it was listed, unless the file
    is newer: a file that rotted since is not made right by writing this again."""
    manifest = folder / NAME
    listed = _read(manifest)
    since = manifest.stat().st_mtime_ns if manifest.exists() else 0
    files = {name: folder / name for name in names}
    new = {n: f for n, f in files.items() if n not in listed or f.stat().st_mtime_ns > since}
    tally = Tally(progress, total_bytes=sum(file.stat().st_size for file in new.values()))
    for name, file in new.items():
        listed[name] = sha256_of(file)
        tally.add(file.stat().st_size)
    if new:
        lines = (f"{digest}  {name}\n" for name, digest in sorted(listed.items()))
        aside = manifest.with_suffix(".writing")
        aside.write_text("".join(lines), "utf-8")
        aside.replace(manifest)


def compare(found: Findings, names: Iterable[str], tally: Tally) -> bool:
    """Read the files again, all of them; False where the folder has no manifest."""
    manifest = found.folder / NAME
    if not manifest.is_file():
        return False
    listed = _read(manifest)
    for name in names:
        file = found.folder / name
        if name in listed and file.is_file():
            if sha256_of(file) != listed[name]:
                message = f"{name} is not the file that arrived: its sha256 is not that of {NAME}"
                found.add(_part(name), "other_content", message)
            tally.add(file.stat().st_size)
    return True


def _read(manifest: Path) -> dict[str, str]:
    if not manifest.exists():
        return {}
    matches = map(_LINE.fullmatch, manifest.read_text("utf-8").splitlines())
    return {match[2]: match[1] for match in matches if match}


def _part(name: str) -> str:
    return name.split("/")[0] if "/" in name else "model"
