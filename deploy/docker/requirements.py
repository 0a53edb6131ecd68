"""Prints what the farm and the named extras of pyproject.toml require, one requirement a line.

An image installs them in a layer of their own, which stays the same while only code changes.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: list[str]) -> list[str]:
    project = tomllib.loads(pyproject)["project"]
    lines: list[str] = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path("pyproject.toml").read_text(), sys.argv[1:])))
