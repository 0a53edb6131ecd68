"""Image bytes, one picture for one order: native fields, or the body of Hugging Face's clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.dialects.wish import Wish, said
from api.schemas import ALIASES, NewJob

_HUGGING_FACE = frozenset(
    {"negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "seed"}
)
_UNUSED = {"n", "partial_images"}  # `n` is looked at here, and nobody sees previews
_NATIVE = NewJob.model_fields.keys() - _UNUSED | ALIASES.keys() | {"size"}


def translate(body: Mapping[str, Any]) -> Wish:
    given, wish = said(body), Wish()
    if "inputs" in given:
        _hugging_face(wish, given)
        return wish
    wish.take(given, _NATIVE, {"n"})
    if given.get("n", 1) != 1:
        wish.refuse("invalid_value", "n", "this route answers one image; POST /jobs takes more")
    return wish


def _hugging_face(wish: Wish, given: Mapping[str, Any]) -> None:
    wish.put("prompt", given["inputs"], "inputs")
    wish.ignored += given.keys() - {"inputs", "parameters"}
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        wish.refuse("invalid_value", "parameters", "must be an object")
        return
    wish.take(said(parameters), _HUGGING_FACE, prefix="parameters/")
