"""The file in which a container probe reads that a process is well, and its state."""

from __future__ import annotations

from pathlib import Path


def show(file: Path, state: str) -> None:
    """Say that this process is well now: a probe reads the whole line or the one before it."""
    aside = file.with_name(file.name + ".new")
    aside.write_text(state + "\n", "utf-8")
    aside.replace(file)
