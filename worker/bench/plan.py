"""What is measured: variants of one engine, on models of SD3.5's sizes. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from shared.errors import SettingsError
from shared.models import ModelEntry

NAIVE = "naive"
# Each a model entry's fields beside its defaults: what is measured is what a worker would serve.
VARIANTS: dict[str, dict[str, Any]] = {
    NAIVE: {},  # no engine of ours: the pipeline as the documentation of diffusers shows it
    "engine": {},
    "compile": {"compile": "regional"},
    "compile+fp8": {"compile": "regional", "precision": "fp8"},
    # CUDA graphs, which exclude the tables of the modulation: published gains are 5 % against 1 %.
    "final": {"compile": "full", "precision": "fp8", "attention": "cudnn"},
}
SIDES_PX = (1024, 512)


@dataclass(slots=True, frozen=True)
class Subject:
    """A shape of SD3.5 with random weights, or a model of models.toml (`shape` empty)."""

    model: str
    shape: str
    steps: int
    guidance_scale: float


# The recommended guidance, and the steps that published figures use; those of one shape together.
SHAPES = {
    "large": Subject("large", "large", 28, 3.5),
    "turbo": Subject("turbo", "large", 4, 0.0),
    "medium": Subject("medium", "medium", 28, 4.5),
}

# What one NVIDIA H200 is meant to reach at 1024 px; aims, not results.
AIM_CARD, AIM_PX = "H200", 1024
AIMS: dict[tuple[str, str], str] = {
    ("large", "compile"): ">= 420 TFLOP/s",
    ("large", "compile+fp8"): ">= 600 TFLOP/s",
    ("large", "final"): ">= 600 TFLOP/s",
    ("medium", "final"): "<= 1.1 s",
    ("turbo", "final"): "<= 0.24 s",
}


@dataclass(slots=True, frozen=True)
class Run:
    """What one process does: measure one variant, measure the ceilings, or make a shape's weights.

    `entry` are the fields of a model entry, with the variant's own. `folder` is where the shapes'
    weights lie, and what `naive` drew for the others to compare with. `settings` are the farm's.
    """

    subject: Subject
    variant: str
    entry: Mapping[str, Any]
    px: int
    device: str
    repeats: int
    folder: str
    tiny: bool = False
    task: Literal["variant", "ceilings", "weights"] = "variant"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        return Path(self.folder) / self.subject.shape

    @property
    def reference(self) -> Path:
        return Path(self.folder) / f"{self.subject.model}-{self.px}.pt"

    def encode(self) -> bytes:
        return TypeAdapter(Run).dump_json(self)

    @classmethod
    def decode(cls, data: bytes) -> Run:
        return TypeAdapter(cls).validate_json(data)

    @property
    def title(self) -> dict[str, Any]:
        """What names its row."""
        told = asdict(self.subject)
        del told["shape"]
        return {**told, "px": self.px, "variant": self.variant, "tiny": self.tiny}

    @property
    def aim(self) -> str:
        if self.tiny or self.px != AIM_PX:
            return ""
        return AIMS.get((self.subject.model, self.variant), "")


def parse_variant(text: str) -> tuple[str, dict[str, Any]]:
    """`compile+fp8`, or an own one: `compile=regional,precision=fp8`. Raises SettingsError."""
    if text in VARIANTS:
        return text, VARIANTS[text]
    if "=" not in text:
        raise SettingsError(
            f"there is no variant {text!r}; there are {', '.join(VARIANTS)}, "
            "or name fields of a model entry: compile=regional,attention=flash"
        )
    fields: dict[str, Any] = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    try:
        checked = ModelEntry.model_validate({"id": "a", "source": "dir:", **fields})
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{text!r} is no variant: {first['loc'][0] if first['loc'] else 'it'}: {first['msg']}"
        ) from error
    return text, {name: getattr(checked, name) for name in fields}


@dataclass(slots=True, frozen=True)
class Plan:
    """`served`: the fields of the entry that `--model` names; empty for shapes."""

    subjects: tuple[Subject, ...]
    variants: tuple[str, ...]
    sides_px: tuple[int, ...]
    device: str
    repeats: int
    tiny: bool = False
    ceilings: bool = True
    served: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, folder: Path) -> Iterator[Run]:
        """Size by size, and `naive` first: the others are compared with it. Raises SettingsError."""
        variants = sorted(map(parse_variant, self.variants), key=lambda each: each[0] != NAIVE)
        if self.ceilings:
            yield self._run(self.subjects[0], self.sides_px[0], "", {}, folder, "ceilings")
        made = ""
        for subject, px in product(self.subjects, self.sides_px):
            if subject.shape != made:
                yield self._run(subject, px, "", {}, folder, "weights")
                made = subject.shape
            for name, fields in variants:
                yield self._run(subject, px, name, fields, folder, "variant")

    def _run(
        self, subject: Subject, px: int, name: str, fields: Mapping[str, Any], folder: Path,
        task: Literal["variant", "ceilings", "weights"],
    ) -> Run:  # fmt: skip
        made = {
            "id": subject.model,
            "source": f"dir:{folder / subject.shape}",
            "precision": "fp32" if self.tiny else "bf16",
            "max_sequence_length": 32 if self.tiny else 256,
        }
        asked = {
            "width": px,
            "height": px,
            "min_side_px": 16,
            "max_side_px": max(px, 2048),
            "steps": subject.steps,
            "guidance_scale": subject.guidance_scale,
        }
        return Run(
            subject, name, {**(self.served or made), **asked, **fields}, px, self.device,
            self.repeats, str(folder), self.tiny, task, self.settings,
        )  # fmt: skip
