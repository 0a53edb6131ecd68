"""What a look at a model folder found: each fault as one sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True, frozen=True)
class Fault:
    """`part`: a component, or `model` for the whole; `code`: the kind, for machines; `file`: the
    one that is damaged, where fetching it again would help."""

    part: str
    code: str
    message: str
    file: str = ""


@dataclass(slots=True)
class Findings:
    """Also what was read on the way, by part: configurations, tensors, how many words."""

    folder: Path
    faults: list[Fault] = field(default_factory=list)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    tensors: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)

    def add(self, part: str, code: str, message: str, file: str = "") -> None:
        self.faults.append(Fault(part, code, message, file))

    def wrong(self, part: str) -> bool:
        return any(fault.part == part for fault in self.faults)

    def has(self, name: str) -> bool:
        """Whether the file is there and holds anything."""
        file = self.folder / name
        return file.is_file() and file.stat().st_size > 0

    def json(self, name: str) -> dict[str, Any]:
        """The object in a file; {} where it cannot be read, which is then a fault."""
        part = name.split("/")[0] if "/" in name else "model"
        try:
            value = json.loads((self.folder / name).read_text("utf-8"))
        except FileNotFoundError:
            self.add(part, "missing_file", f"{name} is missing")
        except (OSError, ValueError, RecursionError) as error:  # the last: nested without end
            self.add(part, "bad_json", f"{name} cannot be read: {error}", name)
        else:
            if isinstance(value, dict):
                return value
            self.add(part, "bad_json", f"{name} is not a JSON object")
        return {}
