"""Writes the settings table into README.md: `python -m tests.readme`."""

from __future__ import annotations

import re
from pathlib import Path

from shared.settings import table

README = Path(__file__).parent.parent / "README.md"
_TABLE = re.compile(r"(<!-- settings -->\n).*?(\n<!-- /settings -->)", re.DOTALL)


def with_table(text: str) -> str:
    return _TABLE.sub(lambda marks: marks[1] + table() + marks[2], text)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text("utf-8")), "utf-8")
