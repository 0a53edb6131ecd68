"""OpenAI's bodies for our OpenAPI document."""

from __future__ import annotations

from typing import Any

from api import sse
from shared.loras import MOST_LORAS, MOST_SCALE

CODES = (
    "invalid_json", "invalid_value", "missing_field", "invalid_size", "conflicting_fields",
    "model_not_found", "lora_not_found", "unsupported_for_model", "invalid_image", "invalid_idempotency_key",
    "missing_api_key", "invalid_api_key", "job_canceled", "job_expired", "body_too_large",
    "unsupported_media_type", "idempotency_key_reused", "render_error", "model_not_ready",
    "draining", "queue_full", "store_unavailable", "sync_timeout",
)  # fmt: skip

_TEXT, _WHOLE, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_FIELDS: dict[str, Any] = {
    "prompt": {**_TEXT, "minLength": 1, "maxLength": 32_000},
    "model": {
        **_TEXT,
        "description": "An unknown name is the farm's default model, unless told else",
    },
    "n": {**_WHOLE, "minimum": 1, "maximum": 10},
    "size": {**_TEXT, "pattern": "^(auto|[0-9]{1,5}x[0-9]{1,5})$"},
    "quality": {
        "enum": ["auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"],
        "description": "A share of the model's default steps; `steps` wins",
    },
    "response_format": {"enum": ["b64_json", "url"], "description": "`url` for names in `dall-e-`"},
    "output_format": {"enum": ["png", "webp", "jpeg"]},
    "output_compression": {**_WHOLE, "minimum": 0, "maximum": 100},
    "stream": {"type": "boolean"},
    "partial_images": {**_WHOLE, "minimum": 0, "maximum": 3},
    "user": _TEXT,
    "negative_prompt": _TEXT,
    "seed": {**_WHOLE, "minimum": -1, "maximum": 2**32 - 1},
    "steps": {**_WHOLE, "minimum": 1},
    "guidance_scale": {**_NUMBER, "minimum": 0, "maximum": 30},
    "shift": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 20},
    "skip_layer_guidance": {**_NUMBER, "minimum": 0, "maximum": 10},
    "loras": {
        "type": "array",
        "maxItems": MOST_LORAS,
        "items": {
            "type": "object",
            "properties": {
                "name": _TEXT,
                "scale": {**_NUMBER, "minimum": -MOST_SCALE, "maximum": MOST_SCALE},
            },
            "required": ["name"],
        },
        "description": "Adapters of the model; in a form as JSON",
    },
    "preset": {"enum": ["exact", "balanced", "draft"]},
    "cache": {"enum": ["use", "bypass"]},
    "priority": {"enum": ["high", "normal", "low"]},
    "metadata": {"type": "object", "additionalProperties": _TEXT},
}
_FILE = {"type": "string", "format": "binary"}


def _body(kind: str, fields: dict[str, Any], required: list[str], **example: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": fields, "required": required}
    return {"required": True, "content": {kind: {"schema": schema, **example}}}


_FORM = {
    "image": {
        **_FILE,
        "description": "PNG, JPEG or WebP; `image[]` too, of which the first counts",
    },
    **_FIELDS,
    "strength": {**_NUMBER, "exclusiveMinimum": 0, "maximum": 1},
}
_MASK = {"mask": {**_FILE, "description": "As large as the image; transparent = draw anew"}}

BODY = _body(
    "application/json",
    _FIELDS,
    ["prompt"],
    example={"model": "gpt-image-1", "prompt": "a red fox", "size": "512x512", "seed": 42},
)
EDIT = _body("multipart/form-data", _FORM | _MASK, ["image", "prompt"])
VARIATION = _body(
    "multipart/form-data", {k: v for k, v in _FORM.items() if k != "prompt"}, ["image"]
)
STREAMED: dict[str, Any] = {
    "description": "The pictures; with `stream` as they come",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["created", "data"],
                "properties": {
                    "created": _WHOLE,
                    "data": {"type": "array", "items": {"type": "object"}},
                    "background": _TEXT,
                    "output_format": _TEXT,
                    "quality": _TEXT,
                    "size": _TEXT,
                    "usage": {"type": "object"},
                },
            },
            "example": {
                "created": 1767607209,
                "data": [{"b64_json": "iVBORw0KGgo...", "revised_prompt": "a red fox", "seed": 42}],
                "background": "opaque",
                "output_format": "png",
                "quality": "medium",
                "size": "512x512",
                "usage": {
                    "input_tokens": 3,
                    "output_tokens": 1024,
                    "total_tokens": 1027,
                    "input_tokens_details": {"text_tokens": 3, "image_tokens": 0},
                },
            },
        },
        sse.MEDIA_TYPE: {"schema": sse.SCHEMA},
    },
}
