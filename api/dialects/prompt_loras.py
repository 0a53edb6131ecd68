"""LoRAs written into a prompt, as the web UI AUTOMATIC1111 has it: `<lora:ink:0.8>`."""

from __future__ import annotations

import re

from api.dialects.wish import Wish
from shared.loras import DEFAULT_SCALE

_TAG = re.compile(r"<lora:([^<>:]{1,100})((?::[^<>:]{0,100}){0,8})>")
_BLANKS = re.compile(r"[ \t]{2,}")


def take_loras(wish: Wish) -> None:
    """Move them out of the wish's prompt into `loras`.

    Of several numbers the last counts: it is the transformer's, those before it a text encoder's.
    Of one name written twice the scales add up, as two of its adapters would.
    """
    prompt = wish.fields.get("prompt")
    if not isinstance(prompt, str) or not (found := _TAG.findall(prompt)):
        return
    scales: dict[str, float] = {}
    for name, told in found:
        scales[name] = scales.get(name, 0.0) + _scale(wish, name, told)
    wish.put("prompt", _BLANKS.sub(" ", _TAG.sub("", prompt)).strip(), "prompt")
    wish.put("loras", [{"name": n, "scale": s} for n, s in scales.items()], "prompt")


def _scale(wish: Wish, name: str, told: str) -> float:
    numbers = [text for text in told.split(":") if text and "=" not in text]
    wish.ignored += [f"prompt/{text.partition('=')[0]}" for text in told.split(":") if "=" in text]
    try:
        return float(numbers[-1]) if numbers else DEFAULT_SCALE
    except ValueError:
        wish.refuse("invalid_value", "prompt", f"<lora:{name}{told}> names no number")
        return DEFAULT_SCALE
