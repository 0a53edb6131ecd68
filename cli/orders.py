"""The order that options describe: those of `render`, `submit` and `dry-run`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from renderfarm_client.pictures import SUFFIX

Command = Callable[..., Any]
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS = (
    click.argument("prompt"),
    click.option("--negative", "negative_prompt", help="What the picture should not show."),
    click.option("-n", "n", type=click.IntRange(1), default=1, show_default=True, help="Images."),
    click.option("--seed", type=int, help="Image k has seed + k.  [default: drawn]"),
    click.option("--size", metavar="WxH", help="Pixels, such as 1024x768.  [default: the model's]"),
    click.option("--steps", type=int, help="Denoising steps.  [default: the model's]"),
    click.option("--guidance", "guidance_scale", type=float, help="CFG.  [default: the model's]"),
    click.option("--shift", type=float, help="The scheduler's shift.  [default: the model's]"),
    click.option(
        "--skip-layer-guidance", type=float, help="Its scale, 0: none.  [default: the model's]"
    ),
    click.option("--lora", "loras", multiple=True, metavar="NAME[:SCALE]", help="Up to four of the model's."),
    click.option(
        "--preset", type=click.Choice(["exact", "balanced", "draft"]),
        help="Lossy speed.  [default: the model's]",
    ),
    click.option("--model", help="A model of `GET /models`.  [default: the farm's]"),
    click.option("--init-image", type=_FILE, help="Start from this picture."),
    click.option("--mask-image", type=_FILE, help="Repaint only where this one is white."),
    click.option("--strength", type=float, help="How far from --init-image, 0 to 1."),
    click.option(
        "--format", "output_format", type=click.Choice(list(SUFFIX)), default="png",
        show_default=True,
    ),
    click.option(
        "--priority", type=click.Choice(["high", "normal", "low"]), help="[default: normal]"
    ),
    click.option("--deadline", "deadline_s", type=float, help="Drop what starts later, seconds."),
    click.option("--meta", "metadata", multiple=True, metavar="NAME=VALUE", help="Kept with the job."),
    click.option("--webhook", metavar="URL", help="Who is told how the job ends: docs/webhooks.md."),
    click.option("--no-cache", is_flag=True, help="Render again what was rendered before."),
)  # fmt: skip


def order_options(command: Command) -> Command:
    """PROMPT and every option of an order; the command gets them as keywords, for `orders`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def orders(
    prompt: str,
    no_cache: bool,
    metadata: tuple[str, ...],
    loras: tuple[str, ...],
    webhook: str | None,
    **fields: Any,
) -> list[Any]:
    """One order, or one for each line of stdin where the prompt is `-`. Raises click's errors."""
    said = {name: value for name, value in fields.items() if value is not None}
    said |= {"cache": "bypass"} if no_cache else {}
    said |= {"metadata": pairs(metadata)} if metadata else {}
    said |= {"loras": [adapter(text) for text in loras]} if loras else {}
    said |= {"webhook": {"url": webhook}} if webhook else {}
    return [{"prompt": each, **said} for each in _prompts(prompt)]


def pairs(metadata: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE`, as often as given."""
    found = [text.partition("=") for text in metadata]
    if any(not name or not equals for name, equals, _ in found):
        raise click.BadParameter("say NAME=VALUE", param_hint="--meta")
    return {name: value for name, _, value in found}


def adapter(text: str) -> dict[str, Any]:
    """`NAME` or `NAME:SCALE`."""
    name, colon, scale = text.partition(":")
    try:
        return {"name": name, "scale": float(scale)} if colon else {"name": name}
    except ValueError:
        raise click.BadParameter("say NAME or NAME:SCALE", param_hint="--lora") from None


def _prompts(prompt: str) -> list[str]:
    if prompt != "-":
        return [prompt]
    found = [line.strip() for line in sys.stdin if line.strip()]
    if not found:
        raise click.UsageError("PROMPT is `-`, and stdin has no line")
    return found
