"""The options of every command that speaks to a farm over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def web_url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} does not start with http:// or https://")
    return value


def farm_options(command: Command) -> Command:
    """`--url` and `--key`, or RENDERFARM_URL and RENDERFARM_KEY."""
    url = click.option(
        "--url", envvar="RENDERFARM_URL", show_envvar=True, callback=web_url,
        default="http://127.0.0.1:8000", show_default=True, help="The farm.",
    )  # fmt: skip
    key = click.option("--key", envvar="RENDERFARM_KEY", show_envvar=True, help="Your API key.")
    return url(key(command))
