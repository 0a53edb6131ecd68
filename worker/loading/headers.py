"""Weight files told by their headers: which tensors they hold, and whether they are whole."""

from __future__ import annotations

import json
import os
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from worker.loading.findings import Findings

Shapes = dict[str, list[int]]
_MOST_HEADER_BYTES = 100_000_000  # as the safetensors library has it


class Damaged(ValueError):
    """A file is not what it should be; the message goes on after the file's name."""


def shapes_of(file: Path) -> Shapes:
    """The tensors of a safetensors file by name; reads the header alone. Raises Damaged."""
    size_bytes = file.stat().st_size
    with file.open("rb") as opened:
        header, data_from = _header(opened, size_bytes)
    header.pop("__metadata__", None)
    try:
        ends = data_from + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        shapes = {name: list(tensor["shape"]) for name, tensor in header.items()}
    except (KeyError, TypeError, IndexError):
        raise Damaged("has a damaged header") from None
    if ends != size_bytes:
        cut = "is cut short" if size_bytes < ends else "is too long"
        raise Damaged(f"{cut}: it has {size_bytes} bytes, and its header says {ends}")
    return shapes


def _header(opened: BinaryIO, size_bytes: int) -> tuple[dict[str, Any], int]:
    start = opened.read(8)
    refuse_pointer(start)
    if len(start) < 8:
        raise Damaged(f"has only {size_bytes} bytes: an interrupted download")
    (length,) = struct.unpack("<Q", start)
    if length > _MOST_HEADER_BYTES:
        raise Damaged("is no safetensors file, or its header is damaged")
    if 8 + length > size_bytes:
        raise Damaged("is cut short inside its header, or no safetensors file")
    try:
        header = json.loads(opened.read(length))
    except (ValueError, RecursionError):  # the latter: nested, to break a parser
        header = None
    if not isinstance(header, dict):
        raise Damaged("has a damaged header")
    return header, 8 + length


def refuse_pointer(start: bytes) -> None:
    if start == b"version ":
        raise Damaged("is a Git LFS pointer, not the weights: run `git lfs pull`, or pull it again")


def look_at_weights(found: Findings, part: str, stem: str) -> Shapes:
    """All tensors of a part, from one file or from the shards of its index; faults go to `found`."""
    index = f"{part}/{stem}.safetensors.index.json"
    if not (found.folder / index).exists():
        return _look_at_file(found, part, f"{part}/{stem}.safetensors")
    listed = found.json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        found.add(part, "bad_index", f"{index} lists no weights")
        return {}
    shapes: Shapes = {}
    for shard in sorted({str(name) for name in listed.values()}):
        shapes |= _look_at_file(found, part, f"{part}/{shard}")
    lost = sorted(name for name in listed if name not in shapes)
    if lost and not found.wrong(part):
        message = f"{len(lost)} tensors that {index} lists are in none of its files, such as "
        found.add(part, "missing_tensors", message + lost[0])
    return shapes


def _look_at_file(found: Findings, part: str, name: str) -> Shapes:
    file = found.folder / name
    if not file.is_file():
        found.add(part, "missing_weights", f"{name} is missing" + _instead(file.parent))
    elif not os.access(file, os.R_OK):
        found.add(part, "unreadable", f"{name} cannot be read by this user")
    else:
        try:
            return shapes_of(file)
        except Damaged as damage:
            found.add(part, "bad_weights", f"{name} {damage}", name)
    return {}


def _instead(folder: Path) -> str:
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if not pickles:
        return ""
    return (
        f"; {pickles[0]} is a pickle, which may run code, and is never read: save it as safetensors"
    )


def look_at_gguf(found: Findings, file: Path) -> None:
    """The header of a GGUF file, and whether its tensors lie within its length."""
    if not file.is_file():
        message = f"the gguf_file {file} is neither in {found.folder} nor a path to a file"
        found.add("transformer", "missing_weights", message)
        return
    try:
        _read_gguf(file)
    except Damaged as damage:
        found.add("transformer", "bad_weights", f"{file.name} {damage}")


def _read_gguf(file: Path) -> None:
    with file.open("rb") as opened:
        start = opened.read(8)
    refuse_pointer(start)
    if start[:4] != b"GGUF":
        raise Damaged("is no GGUF file")
    if find_spec("gguf") is None:
        return
    from worker.loading.gguf_header import BoundedReader

    try:
        tensors = BoundedReader(file).tensors
        ends = max((int(tensor.data_offset) + int(tensor.n_bytes) for tensor in tensors), default=0)
    except Exception as error:  # numpy's, for whatever it stumbles over
        raise Damaged("is cut short, or its header is damaged") from error
    if not tensors or ends > file.stat().st_size:
        raise Damaged("is cut short: its tensors reach beyond its end")
