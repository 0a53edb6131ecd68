"""What a client may order: `NewJob`, read strictly and against the limits of its model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from api.references import ImageField
from api.webhooks import NewWebhook
from shared.catalog import Catalog
from shared.errors import InvalidOrder
from shared.jobs import SEEDS
from shared.loras import DEFAULT_SCALE, MOST_LORAS, MOST_SCALE
from shared.models import SIDE_MULTIPLE_PX, Mode, ModelEntry, Preset
from shared.ssrf import Hosts

ALIASES = {"num_inference_steps": "steps", "cfg_scale": "guidance_scale"}
MOST_PAIRS = 16  # of metadata
SIZE = re.compile(r"^([0-9]{1,5})x([0-9]{1,5})$")

Text = Annotated[str, StringConstraints(max_length=32_000, pattern=r"^[^\x00]*$")]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


@dataclass(slots=True, frozen=True)
class Limits:
    """What an order is checked against besides its own shape."""

    catalog: Catalog
    max_n: int
    blank_prompt: bool = False  # a dialect where a picture says enough
    hosts: Hosts = field(default_factory=Hosts)  # open to webhooks though not public


class LoraWish(BaseModel):
    """An adapter of the model, and how much of it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(max_length=100, description="One of the model's `loras` in `GET /models`")
    scale: float = Field(DEFAULT_SCALE, ge=-MOST_SCALE, le=MOST_SCALE, description="0: none")


class NewJob(BaseModel):
    """An order. `null` means absent; what is absent takes the model's default."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    # First: the limits of the fields below are the model's.
    model: str | None = Field(None, description="Id or alias in `GET /models`")
    prompt: Text = Field(description="Not blank", json_schema_extra={"minLength": 1})
    negative_prompt: Text = Field("", description="What should not be seen; needs guidance")
    width: int | None = Field(None, description="px, a multiple of 16 inside the model's limits")
    height: int | None = Field(None, validate_default=True, description="As `width`")
    n: int = Field(1, ge=1, description="How many images; image k has seed `seed + k`")
    seed: int | None = Field(None, ge=-1, lt=SEEDS, description="-1 or absent: drawn")
    steps: int | None = Field(None, ge=1, description="Alias: `num_inference_steps`")
    guidance_scale: float | None = Field(
        None, ge=0, le=30, description="<= 1: none. Alias: `cfg_scale`"
    )
    shift: float | None = Field(None, gt=0, le=20, description="The scheduler's shift")
    skip_layer_guidance: float | None = Field(
        None, ge=0, le=10, description="Its scale, 0: none. Works on top of guidance"
    )
    loras: list[LoraWish] = Field(
        default=[], max_length=MOST_LORAS, description="Adapters of the model, each once"
    )
    preset: Preset | None = Field(None, description="Lossy speed; absent: the model's")
    output_format: Literal["png", "webp", "jpeg"] = "png"
    output_compression: int = Field(100, ge=0, le=100, description="Quality of WebP and JPEG")
    partial_images: int = Field(
        0, ge=0, le=3, description="Most previews of each image, told in its event stream"
    )
    cache: Literal["use", "bypass"] = Field("use", description="`bypass` renders again")
    priority: Literal["high", "normal", "low"] = "normal"
    deadline_s: float | None = Field(
        None, ge=1, le=86_400, description="Images not started by then drop out"
    )
    metadata: dict[MetadataKey, MetadataValue] = Field(default={}, max_length=MOST_PAIRS)

    init_image: ImageField = Field(None, description="Start from this picture")
    mask_image: ImageField = Field(
        None, description="White is repainted, black kept; as large as `init_image`"
    )
    strength: float | None = Field(
        None, gt=0, le=1, description="How much of the steps is run on `init_image`; default 0.6"
    )
    webhook: NewWebhook | None = Field(None, description="Whom to tell how the job ends")

    @field_validator("model")
    @classmethod
    def _served(cls, name: str | None, info: ValidationInfo) -> str | None:
        try:
            if name is not None:
                _limits(info).catalog.find(name)
            return name
        except InvalidOrder as error:
            raise PydanticCustomError("model_not_found", "{why}", {"why": str(error)}) from None

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, prompt: str, info: ValidationInfo) -> str:
        if not prompt.strip() and not _limits(info).blank_prompt:
            raise PydanticCustomError("invalid_value", "must not be blank")
        return prompt

    @field_validator("width", "height")
    @classmethod
    def _side(cls, side: int | None, info: ValidationInfo) -> int | None:
        entry = _entry(info)
        if entry is None or side is None:
            return side
        if side % SIDE_MULTIPLE_PX or not entry.min_side_px <= side <= entry.max_side_px:
            raise PydanticCustomError(
                "invalid_size",
                "must be a multiple of 16 from {low} to {high}",
                {"low": entry.min_side_px, "high": entry.max_side_px},
            )
        return side

    @field_validator("height")
    @classmethod
    def _area(cls, height: int | None, info: ValidationInfo) -> int | None:
        entry = _entry(info)
        if entry is None or "width" not in info.data:
            return height
        if (info.data["width"] or entry.width) * (height or entry.height) > entry.max_pixels:
            raise PydanticCustomError(
                "invalid_size", "more than {most} pixels", {"most": entry.max_pixels}
            )
        return height

    @field_validator("steps")
    @classmethod
    def _few_steps(cls, steps: int | None, info: ValidationInfo) -> int | None:
        entry = _entry(info)
        if entry and steps and steps > entry.max_steps:
            raise PydanticCustomError("invalid_value", "at most {most}", {"most": entry.max_steps})
        return steps

    @field_validator("n")
    @classmethod
    def _few_images(cls, n: int, info: ValidationInfo) -> int:
        most = _limits(info).max_n
        if n > most:
            raise PydanticCustomError("invalid_value", "at most {most}", {"most": most})
        return n

    @field_validator("metadata", mode="before")
    @classmethod
    def _few_pairs(cls, pairs: Any) -> Any:
        """Before each pair is looked at: a million bad ones would cost a gigabyte."""
        if isinstance(pairs, dict) and len(pairs) > MOST_PAIRS:
            raise PydanticCustomError("invalid_value", "at most {most} pairs", {"most": MOST_PAIRS})
        return pairs

    @field_validator("loras")
    @classmethod
    def _of_the_model(cls, loras: list[LoraWish], info: ValidationInfo) -> list[LoraWish]:
        entry = _entry(info)
        if entry is None or not loras:
            return loras
        if len({lora.name for lora in loras}) < len(loras):
            raise PydanticCustomError("invalid_value", "names a LoRA twice: add up its scales")
        if not entry.takes_loras:
            told = "{model} takes no LoRAs as this farm holds it"
            raise PydanticCustomError("unsupported_for_model", told, {"model": entry.id})
        for lora in loras:
            _check_lora(lora.name, entry, _limits(info).catalog)
        return loras

    @field_validator("skip_layer_guidance")
    @classmethod
    def _skips_layers(cls, scale: float | None, info: ValidationInfo) -> float | None:
        entry = _entry(info)
        if entry and scale and not entry.skip_layers:
            told = "{model} has no layers to skip"
            raise PydanticCustomError("unsupported_for_model", told, {"model": entry.id})
        return scale

    @field_validator("mask_image", "strength")
    @classmethod
    def _on_a_picture(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("init_image", ...) is None:
            raise PydanticCustomError("invalid_value", "needs init_image")
        return value

    @field_validator("init_image", "mask_image")
    @classmethod
    def _in_a_mode(cls, picture: Any, info: ValidationInfo) -> Any:
        mode: Mode = "img2img" if info.field_name == "init_image" else "inpaint"
        entry = _entry(info)
        if entry and picture is not None and mode not in entry.modes:
            told = "{model} does not do {mode}"
            raise PydanticCustomError(
                "unsupported_for_model", told, {"model": entry.id, "mode": mode}
            )
        return picture


def _limits(info: ValidationInfo) -> Limits:
    assert isinstance(info.context, Limits)
    return info.context


def _entry(info: ValidationInfo) -> ModelEntry | None:
    """The model whose limits hold; None if the order names one that is not served."""
    catalog = _limits(info).catalog
    if "model" not in info.data:
        return None
    name = info.data["model"]
    return catalog.default if name is None else catalog.find(name)


def _check_lora(name: str, entry: ModelEntry, catalog: Catalog) -> None:
    if name not in catalog.loras:
        raise PydanticCustomError(
            "lora_not_found", "this farm has no LoRA {name}", {"name": repr(name)}
        )
    if entry.id not in catalog.loras[name].models:
        told = "the LoRA {name} was not made for {model}"
        raise PydanticCustomError("unsupported_for_model", told, {"name": name, "model": entry.id})


EXAMPLES: dict[str, Any] = {
    "short": {"summary": "A prompt is enough", "value": {"prompt": "a lighthouse at dusk"}},
    "full": {
        "summary": "Two images that can be made again",
        "value": {
            "prompt": "a lighthouse at dusk, oil on canvas",
            "negative_prompt": "text",
            "size": "512x512",
            "n": 2,
            "seed": 42,
            "steps": 20,
            "guidance_scale": 4.5,
            "output_format": "webp",
        },
    },
}


def schema() -> dict[str, Any]:
    """NewJob for OpenAPI, with the aliases that are folded before it is read."""
    document = NewJob.model_json_schema()
    fields = document["properties"]
    fields |= {alias: fields[name] for alias, name in ALIASES.items()}
    fields["size"] = {"type": "string", "pattern": SIZE.pattern, "examples": ["1024x768"]}
    return document


def form_schema() -> dict[str, Any]:
    """The same as a form: the pictures may be files, and a part `job` may hold the rest as JSON."""
    document = schema()
    file = {"type": "string", "format": "binary"}
    document["properties"] |= {"init_image": file, "mask_image": file}
    document["properties"]["job"] = {"type": "string", "contentMediaType": "application/json"}
    return document
