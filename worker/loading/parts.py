"""The parts of an SD3.5 folder, and what of them an entry reads."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from shared.models import ModelEntry

T5_PARTS = ("text_encoder_3", "tokenizer_3")
PARTS = (
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "vae",
    *T5_PARTS,
)
_KINDS = ("json", "safetensors", "txt", "model")
_DOUBLES = "*fp16*"
ONNX_MANIFEST = "renderfarm-onnx.json"
# A VAE that stayed torch's, too.
_ONNX = (ONNX_MANIFEST, "*/*.onnx", "*/*.onnx.data", "vae/*.safetensors")


@dataclass(slots=True, frozen=True)
class Wanted:
    """`bare`: parts of which only the configuration is read; `files`: more, by name."""

    parts: tuple[str, ...] = PARTS
    bare: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def patterns(self) -> list[str]:
        """By part: the root and `text_encoders/` hold the same weights again, as single files."""
        whole = [f"{part}/*.{kind}" for part in self.parts for kind in self._kinds(part)]
        return ["model_index.json", *whole, *self.files]

    @property
    def refused(self) -> list[str]:
        return [_DOUBLES] if not any(fnmatchcase(file, _DOUBLES) for file in self.files) else []

    def takes(self, name: str) -> bool:
        """Whether the file `name`, as in `vae/config.json`, is read."""
        taken = any(fnmatchcase(name, pattern) for pattern in self.patterns)
        return taken and not any(fnmatchcase(name, pattern) for pattern in self.refused)

    def _kinds(self, part: str) -> tuple[str, ...]:
        return ("json",) if part in self.bare else _KINDS


def wanted_by(entry: ModelEntry) -> Wanted:
    parts = tuple(part for part in PARTS if entry.t5 != "off" or part not in T5_PARTS)
    if entry.engine == "onnx":
        return Wanted(parts, bare=("transformer", "vae"), files=_ONNX)
    if entry.precision != "gguf":
        return Wanted(parts)
    named = Path(entry.gguf_file).expanduser()
    elsewhere = named.is_absolute() or named.is_file()
    return Wanted(parts, bare=("transformer",), files=() if elsewhere else (entry.gguf_file,))


def gguf_of(entry: ModelEntry, folder: Path) -> Path | None:
    """The entry's GGUF file, in the model's folder or wherever it is; None: it is served without."""
    if entry.precision != "gguf":
        return None
    inside = folder / entry.gguf_file
    return inside if inside.is_file() else Path(entry.gguf_file).expanduser()


def paths_of(entry: ModelEntry, folder: Path) -> list[Path]:
    """All files that an entry reads, its GGUF file too wherever it lies."""
    paths = [folder / name for name in files_of(folder, wanted_by(entry))]
    gguf = gguf_of(entry, folder)
    return [*paths, gguf] if gguf and gguf.is_file() and gguf not in paths else paths


def files_of(folder: Path, wanted: Wanted) -> list[str]:
    """The names of the files in the folder that an entry reads."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(n for f in files if wanted.takes(n := f.relative_to(folder).as_posix()))
