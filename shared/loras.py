"""A LoRA is data too: one `LoraEntry` per adapter that orders may name, read from `models.toml`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MOST_LORAS = 4  # of one order
MOST_SCALE = 2.0  # either way
DEFAULT_SCALE = 1.0


class LoraEntry(BaseModel):
    """One adapter. `source` is `file:PATH` on the worker's machine, or `hf:REPO/FILE`.

    `sha256` is that of the file: it stands in every fingerprint, and the worker proves the file by it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    source: str = Field(pattern=r"^(file:.+|hf:[^/]+/[^/]+/.+)$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    models: tuple[str, ...] = Field(min_length=1)  # ids of the models that it was made for
    revision: str = ""  # of an `hf:` source
    title: str = ""
    trigger: tuple[str, ...] = ()  # words of a prompt that it was trained on
