"""The options of every command that speaks to a farm over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click
import httpx2

Command = Callable[..., Any]


def web_url(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} does not start with http:// or https://")
    try:
        urlsplit(value)
        httpx2.URL(value)
    except (httpx2.InvalidURL, ValueError) as error:
        raise click.BadParameter(f"{value!r}: {error}") from None
    return value


def header_value(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The key, refused without showing it where no header can carry it."""
    if value and not (value.isascii() and value.isprintable()):
        raise click.BadParameter("a key is visible ASCII characters on one line")
    return value


def farm_options(command: Command) -> Command:
    """`--url` and `--key`, or RENDERFARM_URL and RENDERFARM_KEY."""
    url = click.option(
        "--url", envvar="RENDERFARM_URL", show_envvar=True, callback=web_url,
        default="http://127.0.0.1:8000", show_default=True, help="The farm.",
    )  # fmt: skip
    key = click.option(
        "--key", envvar="RENDERFARM_KEY", show_envvar=True, callback=header_value,
        help="Your API key.",
    )  # fmt: skip
    return url(key(command))
