"""`renderfarm keys ...`: make, list, end and renew the keys that are kept in the farm's Redis."""

from __future__ import annotations

import getpass
import json
import time
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cli.gc import age
from cli.screen import plain
from cli.settings import with_own_redis
from shared.errors import KeyNotFound, SettingsError
from shared.owners import Office, open_office
from shared.owners.keys import Grant, Key, make
from shared.owners.port import Act
from shared.settings import load_settings

LIMITS = ("submits_per_min", "max_queued", "max_queued_gpu_s", "max_side_px", "max_pixels",
          "max_steps")  # fmt: skip


@click.group()
def keys() -> None:
    """API keys, in the Redis of FARM_REDIS_URL (or of `renderfarm up` on this machine).

    Every API process sees a change within seconds. Keys of FARM_API_KEYS and FARM_API_KEYS_FILE are
    not among them.
    """


@keys.command()
@click.argument("owner")
@click.option("--admin", is_flag=True, help="May see and stop every job, and tend workers.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(["submit", "read", "admin"]),
    help="Only this; may be repeated.  [default: all of the role]",
)  # fmt: skip
@click.option("--weight", type=float, default=1.0, show_default=True, help="Share of the GPUs.")
@click.option(
    "--max-priority", type=click.Choice(["high", "normal", "low"]), default="high",
    show_default=True, help="Highest priority that it may order with.",
)  # fmt: skip
@click.option("--submits-per-min", type=int, help="Orders a minute.  [default: the farm's]")
@click.option("--max-queued", type=int, help="Queued renders.  [default: the farm's]")
@click.option(
    "--max-queued-gpu-s", type=float,
    help="Predicted GPU-seconds of queued renders.  [default: the farm's]",
)  # fmt: skip
@click.option("--max-side", "max_side_px", type=int, help="px.  [default: the model's]")
@click.option("--max-pixels", type=int, help="Width times height.  [default: the model's]")
@click.option("--max-steps", type=int, help="[default: the model's]")
@click.option("--note", default="", help="What it is for; shown by `keys list`.")
@click.option("--expires", "life_s", metavar="AGE", callback=age, help="Such as 90d.")
def add(owner: str, admin: bool, scopes: tuple[str, ...], life_s: int | None, **given: Any) -> None:
    """Make a key for OWNER and print it: this once, for only its hash is kept.

    \b
    Example:
      renderfarm keys add alice
      renderfarm keys add press --submits-per-min 600 --weight 2 --expires 90d
      renderfarm keys add root --admin
    """
    fields = {"owner": owner, "role": "admin" if admin else "user", **given}
    if scopes:
        fields["scopes"] = frozenset(scopes)
    now = time.time()
    text, key = make(_grant(fields), now, None if life_s is None else now + life_s)
    office = _office()
    office.keys.add(key)
    _note(office, "key.added", key)
    _hand_over(text, key)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option("--all", "ended_too", is_flag=True, help="Revoked and expired ones too.")
def list_keys(as_json: bool, ended_too: bool) -> None:
    """Show the keys, never their text.

    \b
    Example:
      renderfarm keys list --all
    """
    now = time.time()
    found = [key for key in _all(_office()) if ended_too or key.valid(now)]
    if as_json:
        shown = [key.model_dump(mode="json", exclude={"sha256"}) for key in found]
        click.echo(json.dumps(shown, indent=2))
    elif found:
        Console().print(_table(found, now))
    else:
        click.echo("there are no keys; `renderfarm keys add OWNER` makes one")


@keys.command()
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """End the key KEY_ID now. Its owner's jobs stay.

    \b
    Example:
      renderfarm keys revoke key_01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    office = _office()
    key = office.keys.revoke(key_id, time.time())
    _note(office, "key.revoked", key)
    click.echo(f"{key.id} of {key.owner} is revoked")


@keys.command()
@click.argument("key_id")
@click.option(
    "--grace", "grace_s", metavar="AGE", callback=age, default="1h", show_default=True,
    help="So long the old one is valid too.",
)  # fmt: skip
def rotate(key_id: str, grace_s: int) -> None:
    """Make a new key that allows what KEY_ID does, and let the old one end soon.

    \b
    Example:
      renderfarm keys rotate key_01JD8QZ4M3N5P7R9S1T3V5W7X9 --grace 1d
    """
    office, now = _office(), time.time()
    old = next((key for key in _all(office) if key.id == key_id), None)
    if old is None:
        raise KeyNotFound
    life_s = None if old.expires_at is None else old.expires_at - old.created_at
    text, fresh = make(old, now, None if life_s is None else now + life_s)
    office.keys.rotate(key_id, fresh, now + grace_s)
    _note(office, "key.rotated", old)
    _hand_over(text, fresh)
    click.echo(f"the old one, {old.id}, ends at {_time(now + grace_s)}", err=True)


def _office() -> Office:
    return open_office(with_own_redis(load_settings()))


def _all(office: Office) -> tuple[Key, ...]:
    found = office.keys.read()
    return found.keys if found else ()


def _grant(fields: dict[str, Any]) -> Grant:
    """Raises SettingsError."""
    try:
        return Grant.model_validate(fields)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        told = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'scope'}: {e['msg']}" for e in faults)
        raise SettingsError(told) from None


def _hand_over(text: str, key: Key) -> None:
    """The key alone on stdout, so that it can be piped into a file or a vault."""
    click.echo(text)
    click.echo(f"{key.id} of {key.owner}; it is not shown again", err=True)


def _note(office: Office, what: str, key: Key) -> None:
    office.audit.record(Act(actor=operator(), what=what, target=key.id, owner=key.owner))


def operator() -> str:
    """Who gives this command, as the audit log says it."""
    try:
        return f"operator:{getpass.getuser()}"
    except (OSError, KeyError, ImportError):  # no such user: a container with a number for one
        return "operator"


def _table(found: list[Key], now: float) -> Table:
    table = Table()
    for column in ("key", "owner", "may", "limits", "made", "last used", "state", "note"):
        table.add_column(column, overflow="fold")
    for key in found:
        limits = [
            f"{name}={getattr(key, name):g}" for name in LIMITS if getattr(key, name) is not None
        ]
        special = [f"weight={key.weight:g}"] * (key.weight != 1) + [
            f"max_priority={key.max_priority}"
        ] * (key.max_priority != "high")
        table.add_row(*plain(
            key.id, key.owner, " ".join(sorted(key.may)), "\n".join(special + limits),
            _time(key.created_at), _time(key.last_used_at), _state(key, now), key.note,
        ))  # fmt: skip
    return table


def _state(key: Key, now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_time(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    return f"{'valid until' if key.valid(now) else 'expired'} {_time(key.expires_at)}"


def _time(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%MZ", time.gmtime(at))
