"""Parts of a model's folder into a new one, by hard link where the disk allows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def link_parts(source: Path, made: Path, names: list[str]) -> None:
    """The parts `names`, and the single files beside them but for weights. Raises OSError."""
    made.mkdir()
    for name in names:
        shutil.copytree(source / name, made / name, copy_function=_link)
    for file in filter(Path.is_file, source.iterdir()):
        if file.suffix != ".safetensors":
            _link(str(file), str(made / file.name))


def _link(source: str, target: str) -> None:
    real = os.path.realpath(source)  # a hub's cache holds links
    try:
        os.link(real, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(real, target)
