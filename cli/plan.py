"""`renderfarm plan`: how many GPUs a promised wait needs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import click

from cli.options import ORDERING_PATIENCE_S, FarmSays, header_value, web_url
from cli.plan_table import Demand, record, tell
from renderfarm_client import Client, RenderFarmError
from shared.catalog import load_catalog
from shared.errors import FarmError
from shared.planning import PIXEL_BYTES, fewest, needs
from shared.queueing import Crew, Load
from shared.settings import Settings, load_settings

SHARE = click.FloatRange(0, 1, max_open=True)
POSITIVE = click.FloatRange(0, 1e9, min_open=True)


class TooLarge(FarmError):
    """No farm of 10,000 workers holds this promise: allow a longer wait, or split the load into cells."""


@click.command()
@click.option("--jobs-per-hour", type=POSITIVE, help="Orders in an average hour.")
@click.option("--images-per-job", type=click.IntRange(1), help="[default: 1]")
@click.option(
    "--p95-wait-s",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0),
    help="The promise: 95 of 100 images start within.",
)
@click.option("--model", help="[default: the farm's]")
@click.option("--size", metavar="WxH", help="[default: the model's]")
@click.option("--steps", type=click.IntRange(1), help="[default: the model's]")
@click.option(
    "--seconds-per-image",
    "image_s",
    multiple=True,
    type=POSITIVE,
    help="Measured on your GPU; again for a mix.  [default: a guess from models.toml]",
)
@click.option(
    "--cache-hit-share", type=SHARE, help="Of the orders, answered without a GPU.  [default: 0]"
)
@click.option(
    "--burst",
    default=1.0,
    show_default=True,
    type=click.FloatRange(1),
    help="The busiest hour by the average one.",
)
@click.option(
    "--availability",
    default=0.99,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the time that a worker is up.",
)
@click.option(
    "--cold-start-s",
    default=180.0,
    show_default=True,
    type=POSITIVE,
    help="How long one that failed is away.",
)
@click.option("--price-per-gpu-hour", type=POSITIVE, help="In any currency.")
@click.option(
    "--from-farm",
    metavar="URL",
    callback=lambda c, p, v: v and web_url(c, p, v),
    help="Take orders, times and cache hits from this farm's latest jobs.",
)
@click.option(
    "--key",
    envvar="RENDERFARM_KEY",
    show_envvar=True,
    callback=header_value,
    help="Your API key there; an admin's sees all jobs.",
)
@click.option(
    "--latest",
    default=1000,
    show_default=True,
    type=click.IntRange(10),
    help="So many jobs of that farm.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of words.")
def plan(
    p95_wait_s: float, burst: float, availability: float, cold_start_s: float,
    price_per_gpu_hour: float | None, as_json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Say how many GPUs X orders an hour need, so that 95 of 100 images wait at most Y seconds.

    A simulation: orders come at random, each with all of its images. docs/scale.md explains it.

    \b
    Example:
      renderfarm plan --jobs-per-hour 600 --seconds-per-image 7.5 --p95-wait-s 20
      renderfarm plan --from-farm http://127.0.0.1:8000 --burst 3 --price-per-gpu-hour 2.5
    \b
    Exit codes:
      0    here is the number
      1    it cannot be told: the farm has seen too little, or no farm is large enough
    """
    settings = load_settings()
    demand = _demand(settings, **asked)
    peak = replace(demand.mean, jobs_per_hour=demand.mean.jobs_per_hour * burst)
    try:
        answer = fewest(peak, Crew(1, availability, cold_start_s), p95_wait_s)
    except ValueError:
        raise TooLarge from None
    needed = needs(
        demand.mean, answer.workers, answer.tried[answer.workers].queued_p99,
        retention_s=settings.job_retention_s, image_bytes=demand.image_bytes,
        price_per_gpu_hour=price_per_gpu_hour,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(record(demand, peak, answer, needed)))
    else:
        tell(demand, peak, answer, needed, availability)


def _demand(
    settings: Settings, *, from_farm: str | None, key: str | None, latest: int, model: str | None,
    jobs_per_hour: float | None, images_per_job: int | None, image_s: tuple[float, ...],
    cache_hit_share: float | None, **size: Any,
) -> Demand:  # fmt: skip
    """What was said; what was not, as the farm was seen, or from the model entry."""
    if from_farm and any(size.values()):
        raise click.UsageError("--size and --steps are for a guess; --from-farm has measured")
    if from_farm:
        found = _seen(from_farm, key, model, latest)
    elif jobs_per_hour:
        found = _guessed(settings, model, jobs_per_hour, **size)
    else:
        raise click.UsageError("say --jobs-per-hour, or --from-farm URL")
    said: dict[str, Any] = {
        "jobs_per_hour": jobs_per_hour,
        "images": (images_per_job,) if images_per_job else None,
        "image_s": image_s or None,
        "cached_share": cache_hit_share,
    }
    mean = replace(found.mean, **{name: v for name, v in said.items() if v is not None})
    source = "as you say" if image_s else found.source
    return Demand(mean, found.image_bytes, source)


def _guessed(
    settings: Settings, model: str | None, jobs_per_hour: float, size: str | None, steps: int | None
) -> Demand:
    catalog = load_catalog(settings.models_file, settings.default_model)
    entry = catalog.find(model) if model else catalog.default
    width, height = _sides(size) if size else (entry.width, entry.height)
    image_s = entry.predict_seconds(
        width=width, height=height, steps=steps or entry.steps, guidance_scale=entry.guidance_scale
    )
    source = f"a guess from the entry of {entry.id}: measure it, and say --seconds-per-image"
    return Demand(Load(jobs_per_hour, (1,), (image_s,)), PIXEL_BYTES * width * height, source)


def _sides(size: str) -> tuple[int, int]:
    wide, _, tall = size.partition("x")
    if not (wide.isdecimal() and tall.isdecimal() and int(wide) and int(tall)):
        raise click.BadParameter(f"{size!r} is not like 1024x768", param_hint="--size")
    return int(wide), int(tall)


def _seen(url: str, key: str | None, model: str | None, latest: int) -> Demand:
    from cli.observed import observe

    try:
        with Client(url, key, patience_s=ORDERING_PATIENCE_S) as farm:
            seen = observe(farm, model, latest)
    except RenderFarmError as error:
        raise FarmSays(error) from error
    source = f"measured: the latest {seen.jobs} jobs, of {seen.span_s / 3600:.2g} hours"
    return Demand(seen.load, seen.image_bytes, source)
