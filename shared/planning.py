"""How many workers a promised wait needs, and what else a farm of that size needs. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from shared.queueing import Crew, Load, Waits, waits

MOST_BUSY = 0.95
MOST_WORKERS = 10_000
# Bytes in Redis of one image, in a job of its own; see docs/redis.md. In a larger job it is less.
QUEUED_BYTES, FINISHED_BYTES = 2_630, 3_410
PIXEL_BYTES = 3  # of a PNG, at most: noise
DAY_S = 86_400


@dataclass(slots=True, frozen=True)
class Answer:
    """The fewest workers that hold the promise, and what each number that was tried makes of the load."""

    workers: int
    tried: dict[int, Waits]


def fewest(load: Load, crew: Crew, p95_s: float, **precision: int) -> Answer:
    """The smallest crew whose p95 wait is at most `p95_s`; `crew.workers` is not looked at.

    A crew that would be busy for more than 95 % of its time is never tried: its queue takes days to
    settle, so that neither a simulation nor an operator can rely on it.
    Raises ValueError where 10,000 workers are too few.
    """
    tried: dict[int, Waits] = {}

    def enough(workers: int) -> bool:
        if workers > MOST_WORKERS:
            raise ValueError(f"{MOST_WORKERS} workers are too few")
        tried[workers] = waits(load, replace(crew, workers=workers), **precision)
        return tried[workers].p95_s <= p95_s

    low, step = math.floor(load.busy_workers / crew.up_share / MOST_BUSY), 1
    while not enough(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    enough(high + 1)  # for who wants to see what one more buys
    return Answer(high, dict(sorted(tried.items())))


@dataclass(slots=True, frozen=True)
class Needs:
    """`redis_bytes`: what `maxmemory` should be. `stored_bytes_per_day`: what the result store grows by."""

    redis_bytes: int
    stored_bytes_per_day: int
    gpu_cost_per_image: float | None  # in the currency of the price; cached images count too


def needs(
    mean: Load,
    workers: int,
    queued_images: float,
    *,
    retention_s: float,
    image_bytes: float,
    price_per_gpu_hour: float | None = None,
) -> Needs:
    """`mean` is the load of an average hour, `queued_images` of the busiest moment.

    Redis gets twice what it holds, as a rewrite of its log copies what changes meanwhile; prompts
    and metadata come on top. Source: docs/redis.md.
    """
    rendered_per_day = mean.images_per_second * DAY_S
    images_per_day = rendered_per_day / (1 - mean.cached_share)
    remembered = images_per_day * retention_s / DAY_S
    cost = None
    if price_per_gpu_hour is not None:
        cost = price_per_gpu_hour * workers * 24 / images_per_day
    return Needs(
        redis_bytes=round(2 * (queued_images * QUEUED_BYTES + remembered * FINISHED_BYTES)),
        stored_bytes_per_day=round(rendered_per_day * image_bytes),
        gpu_cost_per_image=cost,
    )
