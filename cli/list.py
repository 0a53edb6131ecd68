"""`renderfarm list`: your jobs."""

from __future__ import annotations

import click

from cli.options import farm_options, json_option
from cli.orders import pairs
from cli.screen import plain
from renderfarm_client import Client, Job

STATUSES = ["queued", "running", "succeeded", "failed", "canceled", "expired"]


@click.command("list")
@click.option("--status", type=click.Choice(STATUSES), help="Only these.")
@click.option("--model", help="Only of this model.")
@click.option(
    "--meta", "metadata", multiple=True, metavar="NAME=VALUE", help="Only with this pair."
)
@click.option("--since", "created_after", metavar="TIME", help="Only from then, RFC 3339.")
@click.option("--until", "created_before", metavar="TIME", help="Only before then, RFC 3339.")
@click.option("--owner", help="Admins: of this owner, `*`: of all.")
@click.option("--oldest-first", "ascending", is_flag=True, help="[default: the newest first]")
@click.option(
    "--limit", type=click.IntRange(0), default=20, show_default=True, help="At most; 0: all."
)
@json_option
@farm_options
def list(  # the name of the command
    farm: Client, metadata: tuple[str, ...], ascending: bool, limit: int, as_json: bool,
    **filters: str | None,
) -> None:  # fmt: skip
    """List your jobs: id, status, images done, when they were ordered, prompt.

    One job a line, separated by tabs; `--json` prints all of each.

    \b
    Example:
      renderfarm list --status running
      renderfarm list --meta project=fox --limit 0 --json | jq -r .id
    """
    found = farm.list(
        metadata=pairs(metadata) or None,
        order="asc" if ascending else "desc",
        limit=limit or None,
        **filters,
    )
    for job in found:
        click.echo(job.model_dump_json(by_alias=True) if as_json else _line(job))


def _line(job: Job) -> str:
    done = sum(image.status in ("succeeded", "failed", "canceled") for image in job.images)
    prompt = " ".join(str(job.input.get("prompt", "")).split())[:80]
    cells = (job.id, job.status, f"{done}/{len(job.images)}", job.created_at or "", prompt)
    return "\t".join(str(cell) for cell in plain(*cells))
