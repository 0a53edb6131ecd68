"""`renderfarm verify`: does this picture come out again, pixel by pixel?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from cli.screen import plain
from shared.catalog import load_catalog
from shared.errors import FarmError
from shared.settings import load_settings

if TYPE_CHECKING:
    from worker.verify import Comparison

EXIT_CODES = {"identical": 0, "different": 1, "same": 3}


class CannotVerify(FarmError):
    """The picture cannot be rendered again here."""

    exit_code = 2


def _file() -> click.Path:
    return click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("image", type=_file())
@click.option("--init-image", type=_file(), help="The picture that it started from.")
@click.option("--mask", type=_file(), help="The mask, where part of it was repainted.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.  [default: FARM_DEVICE, else auto]")
@click.option(
    "--tolerance-db", default=40.0, show_default=True, type=click.FloatRange(0, 99),
    help="PSNR from which a picture that is not identical counts as the same.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON instead of words.")
def verify(
    image: Path, init_image: Path | None, mask: Path | None, device: str | None,
    tolerance_db: float, as_json: bool,
) -> None:  # fmt: skip
    """Render IMAGE again from what it says of itself, and compare.

    IMAGE is a PNG of a farm, or a WebP or JPEG made of one, which are rarely identical. The model
    is looked up in models.toml by its digest and loaded into this process; a farm is not needed.
    What rounds the numbers (device, libraries, dtype) is shown for both, with the differences marked.

    \b
    Example:
      renderfarm verify out/lighthouse.png
      renderfarm verify edited.png --init-image photo.jpg --mask mask.png --json
    \b
    Exit codes:
      0    bit-identical
      1    different
      2    cannot be verified: no metadata, another or no such model, inputs missing
      3    not identical, but the same within --tolerance-db
    """
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


def _show(image: Path, found: Comparison) -> None:
    click.echo(f"{image}: {_words(found)}")
    table = Table()
    for column in ("", "", "when it was made", "here"):
        table.add_column(column, overflow="fold")
    for name, then, here in found.profiles():
        mark = "" if then == here else "*"
        table.add_row(*plain(mark, name, _told(then), _told(here)))
    Console().print(table)


def _words(found: Comparison) -> str:
    if found.verdict == "identical":
        return "bit-identical"
    if found.psnr_db is None:
        return "different: it has another size than it says"
    distance = f"{found.psnr_db:.1f} dB, at most {found.max_abs_diff} of 255 apart"
    return f"same within {distance}" if found.verdict == "same" else f"different: {distance}"


def _told(value: Any) -> str:
    return "" if value is None else str(value)
