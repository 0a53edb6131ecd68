"""A picture rendered again from what it says of itself, and compared with the first."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from pydantic import ValidationError

from shared.catalog import Catalog
from shared.errors import FarmError, InvalidOrder
from shared.fingerprint import fingerprint
from shared.images import NOTES, read_info
from shared.intake import BadPicture, Role, make_plain
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.compare import distance
from worker.engines.port import Inputs, Picture
from worker.inputs import inputs_of

Found = Literal["identical", "same", "different"]
# The ways in which an order's mask may have been meant (shared/intake.py); True: turned round.
MASKS: tuple[tuple[Role, bool], ...] = (("mask", False), ("mask", True), ("alpha", False))


class Unverifiable(FarmError):
    """This picture cannot be rendered again here."""


@dataclass(slots=True, frozen=True)
class Given:
    """The files of the input pictures, as they were sent with the order."""

    init_image: bytes | None = None
    mask: bytes | None = None


@dataclass(slots=True, frozen=True)
class Comparison:
    """`max_abs_diff` is of 0 to 255. Without `psnr_db` the sizes differ. Profiles: what rounds."""

    verdict: Found
    max_abs_diff: int
    psnr_db: float | None
    fingerprint: str
    model: str
    then: dict[str, str]
    here: dict[str, str]

    def profiles(self) -> Iterator[tuple[str, str | None, str | None]]:
        """Name, when it was made, here."""
        for name in {**self.then, **self.here}:
            yield name, self.then.get(name), self.here.get(name)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        differ = [name for name, then, here in self.profiles() if then != here]
        return {
            "verdict": self.verdict,
            "max_abs_diff": self.max_abs_diff,
            "psnr_db": self.psnr_db,
            "fingerprint": self.fingerprint,
            "model": self.model,
            "profile": {"then": self.then, "here": self.here, "differ": differ},
        }


@dataclass(slots=True, frozen=True)
class Account:
    """What a picture says of how it was made."""

    spec: RenderSpec
    fingerprint: str
    profile: dict[str, str]


def verified(
    image: bytes,
    given: Given,
    catalog: Catalog,
    settings: Settings,
    device: str,
    tolerance_db: float,
) -> Comparison:
    """Loads the model into this process. Raises Unverifiable."""
    account = account_of(image)
    entry = entry_of(account.spec, catalog)
    refuse_endless(account.spec, entry)
    inputs = inputs_for(account.spec, given)
    from worker.loading.load import load  # seconds of imports: only where something is rendered

    try:
        engine = load(entry, settings, device, loras=catalog.loras)
        picture = engine.render(account.spec, _untold, (lambda: inputs) if inputs else None)
    except FarmError as error:
        raise Unverifiable(str(error)) from error
    return compared(account, entry, picture, image, tolerance_db)


def account_of(image: bytes) -> Account:
    """Raises Unverifiable where there is none, or it is not of a piece."""
    try:
        told = read_info(image).get("renderfarm")
    except InvalidOrder as error:
        raise Unverifiable(str(error)) from error
    if told is None:
        raise Unverifiable("it does not say how it was made: no farm of this kind has written it")
    # Whatever else it says may be of a newer version and decide pixels.
    fields = {name: value for name, value in told.items() if name not in NOTES}
    try:
        spec = RenderSpec.model_validate(fields)
    except ValidationError as error:
        raise Unverifiable(f"what it says of itself lacks {_first(error)}") from error
    if spec.unknown:
        names = ", ".join(sorted(spec.unknown))
        raise Unverifiable(f"a newer version has made it: this one does not know {names}")
    if fingerprint(spec) != told.get("fingerprint"):
        raise Unverifiable("its settings and its fingerprint do not fit: somebody has changed them")
    return Account(spec, fingerprint(spec), _profile(told.get("profile")))


def _profile(told: object) -> dict[str, str]:
    return {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}


def _first(error: ValidationError) -> str:
    return ".".join(map(str, error.errors()[0]["loc"])) or "everything"


def entry_of(spec: RenderSpec, catalog: Catalog) -> ModelEntry:
    """By digest: an entry may have another name today. Raises Unverifiable."""
    for entry in catalog.entries.values():
        if entry.digest == spec.model_digest:
            return entry
    known = catalog.entries.get(spec.model)
    if known is None:
        raise Unverifiable(
            f"there is no model {spec.model} in models.toml; it knows {', '.join(catalog.entries)}"
        )
    raise Unverifiable(
        f"model {spec.model} is another today: digest {known.digest[:12]}, and the picture was made "
        f"with {spec.model_digest[:12]}; put its source, revision and precision of then into models.toml"
    )


def refuse_endless(spec: RenderSpec, entry: ModelEntry) -> None:
    """A stranger's picture may say anything of itself. Raises Unverifiable."""
    side, pixels = max(spec.width, spec.height), spec.width * spec.height
    if side > entry.max_side_px or pixels > entry.max_pixels or spec.steps > entry.max_steps:
        raise Unverifiable(
            f"it says {spec.width} x {spec.height} in {spec.steps} steps, beyond what {entry.id} "
            f"takes: max_side_px {entry.max_side_px}, max_pixels {entry.max_pixels} and "
            f"max_steps {entry.max_steps} in models.toml"
        )


def inputs_for(spec: RenderSpec, given: Given) -> Inputs | None:
    """Raises Unverifiable where a file is missing or is not the one."""
    if spec.init_image_sha256 is None:
        return None
    init = _plain(given.init_image, spec.init_image_sha256, "--init-image", (("image", False),))
    mask = None
    if spec.mask_image_sha256:
        mask = _plain(given.mask, spec.mask_image_sha256, "--mask", MASKS)
    return inputs_of(init, mask, spec.width, spec.height)


def _plain(
    data: bytes | None, sha256: str, option: str, readings: tuple[tuple[Role, bool], ...]
) -> Image.Image:
    if data is None:
        raise Unverifiable(f"it needs an input picture: give its file with {option}")
    complaint = "is not the one that the picture was made with"
    for role, invert in readings:
        try:
            plain = make_plain(data, role, invert=invert)
        except BadPicture as error:
            complaint = f"cannot be used: {error}"
            continue
        if plain.sha256 == sha256:
            return Image.open(io.BytesIO(plain.png))
    raise Unverifiable(f"the file of {option} {complaint}")


def compared(
    account: Account, entry: ModelEntry, picture: Picture, image: bytes, tolerance_db: float
) -> Comparison:
    found = distance(picture, image)
    verdict: Found = "different"
    if found.psnr_db is not None and found.psnr_db >= tolerance_db:
        verdict = "same"
    if found.max_abs_diff == 0:
        verdict = "identical"
    return Comparison(
        verdict, found.max_abs_diff, found.psnr_db, account.fingerprint, entry.id, account.profile,
        picture.profile,
    )  # fmt: skip


def _untold(done: int, total: int) -> None: ...
