"""`renderfarm gc`: delete stored pictures that nobody needs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import click

from cli.settings import with_own_redis
from shared import gc as collector
from shared.errors import SettingsError
from shared.settings import load_settings

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"(\d{1,9})([smhdw])")


def age(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Seconds, from such as 30d."""
    if value is None:
        return None
    match = _AGE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a number with s, m, h, d or w, such as 30d")
    return int(match[1]) * _SECONDS[match[2]]


@click.command()
@click.option(
    "--older-than", "retention_s", metavar="AGE", callback=age,
    help="Such as 30d, 12h.  [default: FARM_RESULT_RETENTION_S, else for ever]",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Delete. Without it nothing is touched.")
def gc(retention_s: int | None, yes: bool) -> None:
    """Show, or delete, stored pictures that nobody needs.

    That is: uploads that ended half way and pictures that another one supersedes, both older than
    a day; pictures older than AGE; and input pictures of former days. What a remembered job refers
    to always stays. Safe while the farm runs.

    \b
    Example:
      renderfarm gc --older-than 30d
      renderfarm gc --older-than 30d --yes
    """
    from shared.results import open_results
    from shared.results.inputs import Inputs
    from shared.store import open_store

    settings = with_own_redis(load_settings())
    if retention_s is None:
        retention_s = settings.result_retention_s or None
    store, results = open_store(settings), open_results(settings)
    if not store.stats().pools:  # else every picture would look like nobody's
        raise SettingsError("the Redis of FARM_REDIS_URL has never had a job: is it this farm's?")
    found = collector.find_waste(store, results, now=time.time(), retention_s=retention_s)
    inputs = Inputs(results)
    unused = collector.find_inputs(store, inputs)
    if yes:
        _tell("deleted", collector.sweep(store, results, found))
        unused = list(collector.sweep_inputs(inputs, unused))
    else:
        _tell("would go", found)
    click.echo(f"{'deleted' if yes else 'would go'}: {len(unused)} inputs")
    if not yes:
        click.echo("nothing was deleted; --yes deletes")


def _tell(what: str, found: Iterable[collector.Waste]) -> None:
    counted = {"incomplete": [0, 0], "superseded": [0, 0], "expired": [0, 0]}
    for waste in found:
        counted[waste.reason][0] += 1
        counted[waste.reason][1] += waste.kept.size_bytes
    for reason, (number, size_bytes) in counted.items():
        click.echo(f"{what}: {number} {reason}, {size_bytes / 1e6:.1f} MB")
