"""`renderfarm verify`: does this picture come out again, pixel by pixel?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from cli.options import WAITING_PATIENCE_S, farm_options
from cli.screen import plain
from renderfarm_client import Client, RenderFarmError
from renderfarm_client.records import Verdict
from shared.catalog import load_catalog
from shared.errors import FarmError
from shared.settings import load_settings

if TYPE_CHECKING:
    from worker.verify import Comparison

EXIT_CODES = {"identical": 0, "different": 1, "same": 3}


class CannotVerify(FarmError):
    """The picture cannot be rendered again, here or by the farm."""

    exit_code = 2


def _file() -> click.Path:
    return click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("image", metavar="IMAGE|JOB")
@click.option("--index", default=0, type=click.IntRange(0), help="Which image of JOB, from 0.")
@click.option("--init-image", type=_file(), help="The picture that it started from.")
@click.option("--mask", type=_file(), help="The mask, where part of it was repainted.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.  [default: FARM_DEVICE, else auto]")
@click.option(
    "--tolerance-db", default=40.0, show_default=True, type=click.FloatRange(0, 99),
    help="PSNR from which a picture that is not identical counts as the same.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON instead of words.")
@farm_options
def verify(
    farm: Client, image: str, index: int, init_image: Path | None, mask: Path | None,
    device: str | None, tolerance_db: float, as_json: bool,
) -> None:  # fmt: skip
    """Render IMAGE again from what it says of itself, or let a farm render an image of JOB again.

    IMAGE is a PNG of a farm, or a WebP or JPEG made of one, which are rarely identical. The model
    is looked up in models.toml by its digest and loaded into this process; a farm is not needed.
    What rounds the numbers (device, libraries, dtype) is shown for both, with the differences marked.
    Of a JOB, the farm compares one image with what it has stored, and tells the distance.

    \b
    Example:
      renderfarm verify out/lighthouse.png
      renderfarm verify edited.png --init-image photo.jpg --mask mask.png --json
      renderfarm verify job_01JD8QZ4M3N5P7R9S1T3V5W7X9 --index 2
    \b
    Exit codes:
      0    bit-identical
      1    different
      2    cannot be verified: no metadata, another or no such model, inputs missing, no farm
      3    not identical, but the same within --tolerance-db
    """
    path = Path(image)
    if path.is_file():
        _of_a_file(path, init_image, mask, device, tolerance_db, as_json)
    elif not image.startswith("job_"):
        raise click.BadParameter(f"{image!r} is neither a file nor a job's id", param_hint="IMAGE")
    elif init_image or mask or device:
        raise click.UsageError("--init-image, --mask and --device are of a picture, not of a job")
    else:
        _of_a_job(farm, image, index, tolerance_db, as_json)


def _of_a_file(
    image: Path, init_image: Path | None, mask: Path | None, device: str | None,
    tolerance_db: float, as_json: bool,
) -> None:  # fmt: skip
    from worker.verify import Given, verified

    settings = load_settings()
    try:
        catalog = load_catalog(settings.models_file, settings.default_model)
        given = Given(*(each.read_bytes() if each else None for each in (init_image, mask)))
        found = verified(
            image.read_bytes(), given, catalog, settings, device or settings.device, tolerance_db
        )
    except (FarmError, OSError) as error:
        raise CannotVerify(f"{image}: {error}") from error
    if as_json:
        click.echo(json.dumps({"image": str(image), **found.document()}))
    else:
        _show(image, found)
    sys.exit(EXIT_CODES[found.verdict])


def _of_a_job(farm: Client, job: str, index: int, tolerance_db: float, as_json: bool) -> None:
    """Its farm has the settings, the input pictures and the stored picture."""
    try:
        new = farm.verify(job, index)
        farm.patience_s = WAITING_PATIENCE_S
        done = farm.wait(new)
    except RenderFarmError as error:
        raise CannotVerify(f"{job}: {error}") from error
    found = done.images[0].verify
    if found is None:
        why = done.error or done.images[0].error
        raise CannotVerify(f"{job}: {why.message if why else f'its verification {done.status}'}")
    verdict = _verdict(found, tolerance_db)
    if as_json:
        told = {"job": job, "index": index, "verification": done.id, "verdict": verdict}
        distance = found.model_dump(include={"max_abs_diff", "psnr_db"})
        click.echo(json.dumps(told | distance))
    else:
        click.echo(f"{job} image {index}: {_words(verdict, found.psnr_db, found.max_abs_diff)}")
    sys.exit(EXIT_CODES[verdict])


def _verdict(found: Verdict, tolerance_db: float) -> str:
    if found.identical:
        return "identical"
    return "same" if (found.psnr_db or 0.0) >= tolerance_db else "different"


def _show(image: Path, found: Comparison) -> None:
    click.echo(f"{image}: {_words(found.verdict, found.psnr_db, found.max_abs_diff)}")
    table = Table()
    for column in ("", "", "when it was made", "here"):
        table.add_column(column, overflow="fold")
    for name, then, here in found.profiles():
        mark = "" if then == here else "*"
        table.add_row(*plain(mark, name, _told(then), _told(here)))
    Console().print(table)


def _words(verdict: str, psnr_db: float | None, max_abs_diff: int | None) -> str:
    if verdict == "identical":
        return "bit-identical"
    if psnr_db is None and max_abs_diff == 255:
        return "different: it has another size than it says"
    decibels = "" if psnr_db is None else f"{psnr_db:.1f} dB, "  # older workers do not tell
    distance = f"{decibels}at most {max_abs_diff} of 255 apart"
    return f"same within {distance}" if verdict == "same" else f"different: {distance}"


def _told(value: Any) -> str:
    return "" if value is None else str(value)
