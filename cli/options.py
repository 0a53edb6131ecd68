"""The options of every command that speaks to a farm over HTTP, and its client."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import click
import httpx2

from renderfarm_client import Client, RenderFarmError
from shared.errors import FarmError

Command = Callable[..., Any]
ORDERING_PATIENCE_S, WAITING_PATIENCE_S = 5.0, 60.0


class FarmSays(FarmError):
    """What the client library says, as the command line says errors."""

    def __init__(self, error: RenderFarmError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code


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
    """`--url` and `--key`, or RENDERFARM_URL and RENDERFARM_KEY: the command gets `farm`."""
    url = click.option(
        "--url", envvar="RENDERFARM_URL", show_envvar=True, callback=web_url,
        default="http://127.0.0.1:8000", show_default=True, help="The farm.",
    )  # fmt: skip
    key = click.option(
        "--key", envvar="RENDERFARM_KEY", show_envvar=True, callback=header_value,
        help="Your API key.",
    )  # fmt: skip

    @functools.wraps(command)
    def with_farm(*args: Any, url: str, key: str | None, **options: Any) -> Any:
        try:
            with Client(url, key, patience_s=ORDERING_PATIENCE_S) as farm:
                return command(*args, farm=farm, **options)
        except RenderFarmError as error:
            raise FarmSays(error) from error

    return url(key(with_farm))


json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of words.")
