"""OpenAI's Images API: its orders in native words.

Policy of every field: an unknown one is ignored and named, a known one is never misread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from api.dialects.wish import Wish, said
from api.schemas import ALIASES, MOST_PAIRS
from shared.catalog import Catalog
from shared.models import ModelEntry

PROBE = "invalid-model"  # Nextcloud asks for it to see that the service answers
EXTENSIONS = frozenset(
    {
        "negative_prompt", "seed", "steps", "guidance_scale", "shift", "skip_layer_guidance", "loras",
        "preset", "strength", "cache", "priority", "metadata", *ALIASES,
    }
)  # fmt: skip
_NATIVE = EXTENSIONS | {"prompt", "n", "output_format", "output_compression"}
_HERE = frozenset(
    {"model", "size", "quality", "response_format", "stream", "partial_images", "user"}
    | {"safety_identifier", "svg", "frame_count", "frame_duration_ms"}
)
_PLAIN_IMAGES_ONLY = ("svg", "frame_count", "frame_duration_ms")
_STEPS = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 1.75, "max": 2.0}
_QUALITY = {"auto": "medium", "standard": "medium", "hd": "high"}
_INTEGERS = frozenset(
    {"n", "seed", "steps", "num_inference_steps", "output_compression", "partial_images"}
)
_NUMBERS = frozenset({"guidance_scale", "cfg_scale", "shift", "strength", "skip_layer_guidance"})
_VALUES = frozenset({"stream", "metadata", "loras"})


@dataclass(slots=True, frozen=True)
class Manner:
    """How the answer is wanted; `quality` in the words of the answer."""

    response_format: Literal["b64_json", "url"]
    stream: bool
    quality: str


def translate(
    body: Mapping[str, Any], catalog: Catalog, *, unknown_model: str, deployment: str | None = None
) -> tuple[Wish, Manner]:
    """`deployment` is the model that the path names; it speaks before the body.

    What is wrong stands in `Wish.faults`.
    """
    given = said(body) | ({"model": deployment} if deployment else {})
    wish = Wish()
    wish.take(given, _NATIVE, _HERE)
    entry = _model(wish, given.get("model"), catalog, unknown_model)
    _size(wish, given.get("size"))
    _user(wish, given)
    _animation(wish, given)
    quality = _quality(wish, given.get("quality", "auto"), entry)
    stream = _stream(wish, given)
    return wish, Manner(_format(wish, given), stream, quality)


def scalars(form: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a form, where every value is text; what cannot be read stays text."""
    return {name: _scalar(name, text) for name, text in form.items() if text or name in ("prompt",)}


def _scalar(name: str, text: str) -> Any:
    try:
        if name in _INTEGERS:
            return int(text)
        if name in _NUMBERS:
            return float(text)
        return from_json(text, allow_inf_nan=False) if name in _VALUES else text
    except ValueError:
        return text


def _model(wish: Wish, name: Any, catalog: Catalog, unknown_model: str) -> ModelEntry:
    if name is None:
        return catalog.default
    if name == PROBE:
        wish.refuse("model_not_found", "model", f"there is no model {PROBE!r}")
        return catalog.default
    entry = catalog.names.get(name) if isinstance(name, str) else None
    if entry is None and isinstance(name, str) and unknown_model == "default":
        entry = catalog.default
    wish.put("model", entry.id if entry else name, "model")
    return entry or catalog.default


def _size(wish: Wish, size: Any) -> None:
    if size is not None and size != "auto":
        wish.put("size", size, "size")


def _user(wish: Wish, given: Mapping[str, Any]) -> None:
    """Kept with the job, so that its owner can tell his own users apart."""
    user = given.get("user", given.get("safety_identifier"))
    pairs = wish.fields.get("metadata", {})
    if not isinstance(user, str) or not isinstance(pairs, dict):
        return
    if len(pairs) == MOST_PAIRS and "user" not in pairs:  # the client's own pairs go before it
        wish.ignored += [name for name in ("user", "safety_identifier") if name in given]
        return
    wish.fields["metadata"] = {"user": user[:512]} | pairs


def _animation(wish: Wish, given: Mapping[str, Any]) -> None:
    for name in _PLAIN_IMAGES_ONLY:
        if given.get(name):
            wish.refuse("unsupported_for_model", name, "only still pixel images are made here")


def _quality(wish: Wish, quality: Any, entry: ModelEntry) -> str:
    """Its word in the answer; a share of the default steps, unless the order names its own."""
    name = _QUALITY.get(quality, quality) if isinstance(quality, str) else ""
    if name not in _STEPS:
        allowed = ", ".join([*_QUALITY, *_STEPS])
        wish.refuse("invalid_value", "quality", f"must be one of {allowed}")
        return "medium"
    steps = round(entry.steps * _STEPS[name])
    if steps == entry.steps or {"steps", "num_inference_steps"} & wish.fields.keys():
        return name
    if entry.distilled:
        wish.ignored.append("quality")
    else:
        wish.put("steps", min(max(1, steps), entry.max_steps), "quality")
    return name


def _stream(wish: Wish, given: Mapping[str, Any]) -> bool:
    stream: object = given.get("stream", False)
    if not isinstance(stream, bool):
        wish.refuse("invalid_value", "stream", "must be true or false")
        return False
    if stream and "partial_images" in given:
        wish.put("partial_images", given["partial_images"], "partial_images")
    elif "partial_images" in given:
        wish.ignored.append("partial_images")
    return stream


def _format(wish: Wish, given: Mapping[str, Any]) -> Literal["b64_json", "url"]:
    name = str(given.get("model", ""))
    wanted = given.get("response_format", "url" if name.startswith("dall-e-") else "b64_json")
    if wanted not in ("b64_json", "url"):
        wish.refuse("invalid_value", "response_format", "must be b64_json or url")
    return "url" if wanted == "url" else "b64_json"
