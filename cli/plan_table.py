"""What `renderfarm plan` prints."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import click

from shared.planning import MOST_BUSY, Answer, Needs
from shared.queueing import Load, Waits


@dataclass(slots=True, frozen=True)
class Demand:
    """An average hour, the bytes of a picture, and where the times come from."""

    mean: Load
    image_bytes: float
    source: str


def record(demand: Demand, peak: Load, answer: Answer, needed: Needs) -> dict[str, Any]:
    return {
        "gpus": answer.workers,
        "seconds_per_image": demand.mean.busy_workers / demand.mean.images_per_second,
        "source": demand.source,
        "peak_jobs_per_hour": peak.jobs_per_hour,
        "busy_gpus": peak.busy_workers,
        **asdict(answer.tried[answer.workers]),
        **asdict(needed),
        "tried": {str(workers): asdict(waits) for workers, waits in answer.tried.items()},
    }


def tell(demand: Demand, peak: Load, answer: Answer, needed: Needs, availability: float) -> None:
    seconds = peak.busy_workers / peak.images_per_second
    click.echo(f"An image takes {seconds:.3g} s ({demand.source}).")
    click.echo(
        f"The busiest hour, {peak.jobs_per_hour:.4g} orders, keeps {peak.busy_workers:.3g} GPUs busy.\n"
    )
    click.echo("GPUs   busy   wait p50      p95      p99   whole order p95")
    for workers, waits in answer.tried.items():
        if abs(workers - answer.workers) <= 1:
            mark = "  <- enough" if workers == answer.workers else ""
            click.echo(_row(workers, waits) + mark)
    if answer.workers - 1 not in answer.tried:
        full = peak.busy_workers / availability / MOST_BUSY
        click.echo(
            f"Fewer than {full:.3g} would be busy for more than {MOST_BUSY:.0%}: never planned."
        )
    click.echo(
        f"\n{answer.workers} GPUs; Redis maxmemory {_size(needed.redis_bytes)} and three times the prompts; "
        f"pictures {_size(needed.stored_bytes_per_day)} a day at most."
    )
    if needed.gpu_cost_per_image is not None:
        click.echo(
            f"GPUs cost {needed.gpu_cost_per_image:.3g} an image, if all of them are always up."
        )


def _row(workers: int, waits: Waits) -> str:
    times = "".join(f"{s:7.1f} s" for s in (waits.p95_s, waits.p99_s))
    return f"{workers:4}  {waits.busy:5.0%}  {waits.p50_s:7.1f} s{times}  {waits.job_p95_s:14.1f} s"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
