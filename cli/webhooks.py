"""`renderfarm webhooks ...`: the secret, what became of deliveries, another try, a test."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import click
import httpx2

from cli.options import farm_options, json_option, web_url
from renderfarm_client import Client, Delivery
from shared.errors import FarmError
from shared.webhooks import TIMEOUT_S, signed

_TEST_ID = "msg_test"


@click.group()
def webhooks() -> None:
    """Who is told of your jobs, and whether they heard it."""


@webhooks.command()
@farm_options
def secret(farm: Client) -> None:
    """Print the secret that signs your webhooks.

    \b
    Example:
      renderfarm webhooks secret
    """
    click.echo(farm.webhook_secret().secret)


@webhooks.command()
@farm_options
def rotate(farm: Client) -> None:
    """Take a new secret and print it. The old one signs too for a day.

    \b
    Example:
      renderfarm webhooks rotate
    """
    click.echo(farm.webhook_secret(rotate=True).secret)


@webhooks.command()
@click.argument("job")
@json_option
@farm_options
def deliveries(farm: Client, job: str, as_json: bool) -> None:
    """Show what became of the webhooks of JOB.

    \b
    Example:
      renderfarm webhooks deliveries job_01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    found = farm.deliveries(job)
    if as_json:
        click.echo(json.dumps([one.model_dump() for one in found]))
        return
    for one in found:
        click.echo("\t".join(_told(one)))


@webhooks.command()
@click.argument("job")
@click.option("--delivery", help="Its id.  [default: the newest of the job]")
@farm_options
def redeliver(farm: Client, job: str, delivery: str | None) -> None:
    """Send a webhook of JOB again, now.

    \b
    Example:
      renderfarm webhooks redeliver job_01JD8QZ4M3N5P7R9S1T3V5W7X9
    """
    click.echo("\t".join(_told(farm.redeliver(job, delivery))))


@webhooks.command()
@click.argument("receiver", callback=web_url)
@farm_options
def test(farm: Client, receiver: str) -> None:
    """Send RECEIVER a signed message of type `webhook.test`, from this machine.

    It shows whether a receiver verifies your signatures. Whether the farm reaches it only a job tells.

    \b
    Example:
      renderfarm webhooks test https://example.com/hooks/renders
    """
    status = _send(receiver, farm.webhook_secret().secret)
    click.echo(f"{receiver} answered {status}")
    if not 200 <= status < 300:
        raise FarmError("only an answer from 200 to 299 counts as received")


def _send(receiver: str, secret: str) -> int:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = json.dumps({"type": "webhook.test", "timestamp": now, "data": {}})
    headers = signed([secret], _TEST_ID, time.time(), body)
    try:
        return httpx2.post(receiver, content=body, headers=headers, timeout=TIMEOUT_S).status_code
    except httpx2.HTTPError as error:
        raise FarmError(f"no answer from {receiver}: {error}") from error


def _told(one: Delivery) -> tuple[str, ...]:
    last = one.attempts[-1] if one.attempts else None
    said = f"{last.status or last.error} in {last.ms} ms" if last else "not tried yet"
    then = f"next try at {one.next_try_at}" if one.next_try_at else ""
    what = one.type if one.index is None else f"{one.type} {one.index}"
    return (one.id, what, one.status, f"tried {len(one.attempts)} times", said, then)
