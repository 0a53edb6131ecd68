"""What `renderfarm models export` wrote: its manifest, and whether a folder still is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.findings import Fault
from worker.loading.manifest import sha256_of
from worker.loading.parts import ONNX_MANIFEST

FORMAT = 1  # raise it when the graphs' inputs or outputs change
TRANSFORMER = "transformer/model.onnx"
DECODER = "vae/decoder.onnx"
ENCODER = "vae/encoder.onnx"


class File(BaseModel):
    model_config = ConfigDict(frozen=True)

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls(bytes=path.stat().st_size, sha256=sha256_of(path))


class Manifest(BaseModel):
    """Where the graphs come from and what they are; `files` by path inside the folder."""

    model_config = ConfigDict(frozen=True)

    format: int
    source: str
    revision: str
    precision: Literal["fp32", "bf16", "fp16", "int8"]
    dtype: Literal["fp32", "bf16", "fp16"]  # of inputs and outputs, and of the rest of the model
    opset: int
    versions: dict[str, str]  # of the libraries that exported
    files: dict[str, File]

    @property
    def has_vae(self) -> bool:
        """False: the VAE stays torch's."""
        return DECODER in self.files


def read_manifest(folder: Path) -> Manifest:
    """Raises ModelError where there is none that this version understands."""
    try:
        manifest = Manifest.model_validate_json((folder / ONNX_MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ModelError(
            f"{folder} has no {ONNX_MANIFEST}: engine onnx takes a folder that "
            "`renderfarm models export` wrote"
        ) from None
    except (OSError, ValidationError) as error:
        why = str(error).splitlines()[0]
        raise ModelError(
            f"{folder / ONNX_MANIFEST} is damaged: {why}; export the model again"
        ) from error
    if manifest.format != FORMAT:
        raise ModelError(
            f"{folder} was exported in format {manifest.format}, and this version reads {FORMAT}: "
            "export the model again"
        )
    return manifest


def look_at_graphs(entry: ModelEntry, folder: Path) -> list[Fault]:
    """What preflight does not see; none with engine `diffusers`."""
    if entry.engine != "onnx":
        return []
    try:
        check_graphs(folder, read_manifest(folder), entry)
    except ModelError as error:
        return [Fault("transformer", "graphs", str(error))]
    return []


def check_graphs(folder: Path, manifest: Manifest, entry: ModelEntry) -> None:
    """Raise ModelError for what does not fit the entry, is missing or was changed.

    Graphs are compared by SHA-256; weights, which may be many GB, by length.
    """
    if manifest.precision != entry.precision:
        raise ModelError(
            f"{folder} was exported in {manifest.precision}, and {entry.id} says "
            f"{entry.precision}: set its precision to {manifest.precision}, or export again"
        )
    if TRANSFORMER not in manifest.files:
        raise ModelError(f"{folder / ONNX_MANIFEST} names no {TRANSFORMER}: export the model again")
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{folder} is not complete: {name} is missing")
        if path.stat().st_size != file.bytes or (
            path.suffix == ".onnx" and sha256_of(path) != file.sha256
        ):
            raise ModelError(f"{path} is not the file that was exported: export the model again")
