"""Reads a Dockerfile, and does what its build stage says in a folder instead of an image."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    text: str

    @property
    def paths(self) -> list[str]:
        """What COPY names, without its options; the last is where it goes."""
        return [part for part in self.text.split() if not part.startswith("--")]

    @property
    def from_context(self) -> bool:
        return self.word == "COPY" and "--from=" not in self.text


def read(file: Path) -> dict[str, list[Instruction]]:
    """The instructions of each stage, by its name; the last stage is `image`."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text("utf-8"), flags=re.MULTILINE)
    stages: dict[str, list[Instruction]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            _, _, name = rest.partition(" AS ")
            stages[name or "image"] = current = []
        if word:
            current.append(Instruction(word, rest.strip()))
    return stages


def context_files(sources: list[str]) -> list[Path]:
    """The files of the build context that COPY of these sources takes, as .dockerignore lets it."""
    files = []
    for source in sources:
        path = ROOT / source
        files += [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return [file for file in files if not ignored(file.relative_to(ROOT).as_posix())]


def ignored(path: str) -> bool:
    """As Docker decides: the last line that matches the path or a folder of it counts."""
    verdict = False
    parents = [path, *(p.as_posix() for p in Path(path).parents if p.name)]
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        keep, pattern = line.startswith("!"), line.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        for parent in parents:
            name = Path(parent).name if anywhere != pattern else parent
            if fnmatch.fnmatchcase(name, anywhere):
                verdict = not keep
    return verdict


class Replay:
    """A stage done in `folder`, which stands for `/`: COPY copies and RUN runs, as this user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cwd = folder
        self._env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
        binaries = folder / "bin"
        binaries.mkdir(parents=True)
        (binaries / "python").symlink_to(os.path.realpath(sys.executable))
        self._env["PATH"] = f"{binaries}:/usr/bin:/bin"

    def inside(self, text: str) -> str:
        """The text with this folder before the paths that the image's stages make."""
        return re.sub(r"(?<![\w.])/(?=(opt|src|data)\b)", f"{self.folder}/", text)

    def do(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            if each.word == "WORKDIR":
                self._cwd = Path(self.inside(each.text))
                self._cwd.mkdir(parents=True, exist_ok=True)
            elif each.word == "ENV":
                self._env |= self.environment([each])
            elif each.word == "COPY":
                self._copy(each.paths[:-1], each.paths[-1])
            elif each.word == "RUN":
                command = ["sh", "-ec", self.inside(each.text)]
                subprocess.run(command, cwd=self._cwd, env=self._env, check=True)

    def environment(self, instructions: list[Instruction]) -> dict[str, str]:
        """What ENV sets."""
        env = dict(self._env)
        for each in instructions:
            for pair in shlex.split(each.text) if each.word == "ENV" else ():
                name, _, value = pair.partition("=")
                env[name] = self.inside(value).replace("$PATH", env["PATH"])
        return env

    def _copy(self, sources: list[str], target: str) -> None:
        for file in context_files(sources):
            source = next(s for s in sources if file.is_relative_to(ROOT / s))
            inner = file.relative_to(ROOT / source)
            name = Path(target, inner) if (ROOT / source).is_dir() else Path(target, file.name)
            (self._cwd / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, self._cwd / name)
