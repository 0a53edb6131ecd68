"""huggingface_hub's InferenceClient, unmodified: its model is the URL of our route."""

from __future__ import annotations

import os
from typing import Any

import huggingface_hub
from case import case, main

client = huggingface_hub.InferenceClient(
    model=f"{os.environ['OPENAI_BASE_URL']}/txt2img", token=os.environ["OPENAI_API_KEY"]
)


@case
def version() -> str:
    return huggingface_hub.__version__


@case
def draw() -> Any:
    picture = client.text_to_image(
        "a red fox", negative_prompt="fog", width=64, height=64, num_inference_steps=2,
        guidance_scale=3.5, seed=42,
    )  # fmt: skip
    return {"size": list(picture.size), "format": picture.format}


@case
def bad_size() -> Any:
    return client.text_to_image("a red fox", width=17, height=17)


if __name__ == "__main__":
    main()
