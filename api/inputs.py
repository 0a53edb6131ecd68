"""Input pictures at the door: taken from the client, made plain, stored under the caller's name.

Decoding is the one heavy thing that the API does, so at most two pictures are decoded at a time and
a few more may wait; beyond that the client is asked to come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from threading import BoundedSemaphore

from api.auth import Owner
from api.errors import Fault, Problem, refuse
from api.farm import Farm
from shared.intake import BadPicture, Plain, Role, make_plain
from shared.results.inputs import Inputs

DECODING = BoundedSemaphore(2)  # a picture takes up to 250 MB
TAKEN_IN = BoundedSemaphore(8)  # decoding or waiting for it, each in a thread of the server's forty


@dataclass(slots=True, frozen=True)
class InputImage:
    """A stored input; `sha256` names its pixels."""

    sha256: str
    width: int  # px
    height: int  # px

    def shown(self) -> dict[str, object]:
        return asdict(self)


def store_image(
    farm: Farm,
    owner: Owner,
    data: bytes,
    *,
    field: str,
    role: Role = "image",
    invert: bool = False,
) -> InputImage:
    """Keep a picture for this owner; an order may name it as `{"sha256": ...}` from then on.

    `field` is the JSON pointer, without `#/`, that a refusal names. `role`: "image" is a picture to
    start from; "mask" is read by brightness, white = repaint; "alpha" is a mask by transparency,
    transparent = repaint; `invert` turns a mask round. Call it from a thread, not from the loop.
    Raises Problem 400 `invalid_image`, 503 `inputs_busy`, and ResultsUnavailable.
    """
    plain = normalized(data, field=field, role=role, invert=invert)
    Inputs(farm.results).put(owner.name, plain.sha256, plain.png)
    return InputImage(plain.sha256, plain.width, plain.height)


def normalized(data: bytes, *, field: str, role: Role = "image", invert: bool = False) -> Plain:
    """As `store_image`, but nothing is stored."""
    try:
        with _a_decoder():
            return make_plain(data, role, invert=invert)
    except BadPicture as error:
        raise refuse([Fault("invalid_image", field, str(error))]) from None


@contextmanager
def _a_decoder() -> Iterator[None]:
    if not TAKEN_IN.acquire(blocking=False):
        busy = "many pictures are being read just now; send it again"
        raise Problem(503, "inputs_busy", busy, headers={"Retry-After": "2"})
    try:
        with DECODING:
            yield
    finally:
        TAKEN_IN.release()
