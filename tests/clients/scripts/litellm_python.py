"""LiteLLM, unmodified, as a library."""

from __future__ import annotations

import os
from importlib.metadata import version as installed
from typing import Any

import litellm
from case import case, decoded, main, size

WHERE: dict[str, Any] = {
    "api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"],
}  # fmt: skip
PICTURE = os.environ["PICTURE"]


@case
def version() -> str:
    return installed("litellm")


@case
def draw() -> Any:
    answer = litellm.image_generation(
        model="openai/gpt-image-1", prompt="a red fox", size="64x64", n=2, **WHERE
    )
    return [size(decoded(item.b64_json)) for item in answer.data or []]


@case
def edit() -> Any:
    with open(PICTURE, "rb") as picture:
        answer = litellm.image_edit(
            model="openai/gpt-image-1", prompt="a red fox", image=[picture], size="64x64", **WHERE
        )
    return [size(decoded(item.b64_json)) for item in answer.data or []]


@case
def bad_model() -> Any:
    return litellm.image_generation(model="openai/invalid-model", prompt="a fox", **WHERE)


if __name__ == "__main__":
    main()
