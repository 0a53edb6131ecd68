"""What a foreign order asks for, in the words of `NewJob`, before anything is checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.errors import Fault

MOST_NAMED = 32
_NAME = re.compile(r"[A-Za-z0-9_.\[\]/-]{1,64}")  # a header takes no other bytes safely


@dataclass(slots=True)
class Wish:
    """`spelled` says how the client calls a field; `ignored` what has no effect here."""

    fields: dict[str, Any] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def put(self, name: str, value: Any, spelled: str) -> None:
        self.fields[name] = value
        if spelled != name:
            self.spelled[name] = spelled

    def refuse(self, code: str, name: str, detail: str) -> None:
        self.faults.append(Fault(code, name, detail))

    def take(
        self,
        given: Mapping[str, Any],
        names: Collection[str],
        known: Collection[str] = (),
        prefix: str = "",
    ) -> None:
        """Fields of these names are taken, the `known` are left to others, the rest is ignored."""
        for name, value in given.items():
            if name in names:
                self.put(name, value, prefix + name)
            elif name not in known:
                self.ignored.append(prefix + name)

    @property
    def headers(self) -> dict[str, str]:
        """`X-Ignored-Params`, where anything was."""
        shown = [name for name in dict.fromkeys(self.ignored) if _NAME.fullmatch(name)]
        return {"X-Ignored-Params": ", ".join(shown[:MOST_NAMED])} if shown else {}


def said(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is `null`: that means absent."""
    return {name: value for name, value in given.items() if value is not None}
