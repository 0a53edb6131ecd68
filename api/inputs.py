"""Input pictures at the door: taken from the client, made plain, stored under the caller's name.

Decoding is the one heavy thing that the API does, so at most two pictures are decoded at a time and
a few more may wait; beyond that the client is asked to come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from threading import BoundedSemaphore

from api.auth import Owner
from api.errors import Fault, Problem, refuse
from api.farm import Farm
from api.references import Drawn, Linked, Reference, Sent, Stored
from api.schemas import NewJob
from shared.errors import JobGone, JobNotFound, OutboundFailed, ResultGone, UrlNotAllowed
from shared.intake import BadPicture, Plain, Role, make_plain, plain_of
from shared.jobs import Job
from shared.results.inputs import InputMissing, Inputs

DECODING = BoundedSemaphore(2)  # a picture takes up to 250 MB
FETCHING = BoundedSemaphore(4)  # from other hosts, which may be slow
TAKEN_IN = BoundedSemaphore(8)  # decoding or waiting for it, each in a thread of the server's forty


@dataclass(slots=True, frozen=True)
class InputImage:
    """A stored input; `sha256` names its pixels."""

    sha256: str
    width: int  # px
    height: int  # px

    def shown(self) -> dict[str, object]:
        return asdict(self)


@dataclass(slots=True, frozen=True)
class Given:
    """The input pictures of one order."""

    init: InputImage | None = None
    mask: InputImage | None = None


NOTHING = Given()


def receive(farm: Farm, owner: Owner, order: NewJob, *, keep: bool = True) -> tuple[NewJob, Given]:
    """The order with its pictures stored and named by their pixels; `keep` False stores nothing.

    Raises Problem 400 `invalid_image`, 503 `inputs_busy`, StoreUnavailable and ResultsUnavailable.
    """
    if order.init_image is None:
        return order, NOTHING
    given = Given(_taken(farm, owner, order.init_image, "init_image", "image", keep))
    if order.mask_image is not None:
        given = replace(
            given, mask=_taken(farm, owner, order.mask_image, "mask_image", "mask", keep)
        )
    _refuse_other_size(given)
    found = {"init_image": given.init, "mask_image": given.mask}
    named = {field: Stored(image.sha256) for field, image in found.items() if image}
    return order.model_copy(update=named), given


def keep_inputs(farm: Farm, job: Job) -> None:
    """The input pictures of a job that is ordered again are as fresh as if they were sent again."""
    inputs = Inputs(farm.results)
    for sha256 in {sha256 for image in job.images for sha256 in image.render.spec.inputs}:
        with suppress(InputMissing):  # the worker will say so
            inputs.renew(job.owner, sha256)


def _taken(
    farm: Farm, owner: Owner, reference: Reference, field: str, role: Role, keep: bool
) -> InputImage:
    data = _data(farm, owner, reference, field, keep)
    if isinstance(reference, Stored) and (known := _known(data, reference, role)):
        return known
    if keep:
        return store_image(farm, owner, data, field=field, role=role)
    plain = normalized(data, field=field, role=role)
    return InputImage(plain.sha256, plain.width, plain.height)


def _known(png: bytes, reference: Stored, role: Role) -> InputImage | None:
    """A stored input that is fit for its role as it is."""
    mode, width, height = plain_of(png)
    if mode != {"image": "RGB", "mask": "L"}[role]:
        return None
    return InputImage(reference.sha256, width, height)


def _data(farm: Farm, owner: Owner, reference: Reference, field: str, keep: bool) -> bytes:
    match reference:
        case Sent(data):
            return data
        case Stored():
            return _stored(farm, owner, reference, field, keep)
        case Drawn():
            return _drawn(farm, owner, reference, field)
        case Linked(url):
            return _fetched(farm, url, field)


def _stored(farm: Farm, owner: Owner, reference: Stored, field: str, keep: bool) -> bytes:
    inputs = Inputs(farm.results)
    try:
        return (inputs.renew if keep else inputs.of)(owner.name, reference.sha256)
    except InputMissing:
        raise _refusal(field, "you have no input of this sha256; send the picture again") from None


def _drawn(farm: Farm, owner: Owner, reference: Drawn, field: str) -> bytes:
    """Only the caller's own pictures, for an admin too: who may look may not yet copy."""
    try:
        job = farm.store.get(reference.job)
    except (JobNotFound, JobGone):
        raise _refusal(field, "you have no such job") from None
    if job.owner != owner.name:
        raise _refusal(field, "you have no such job")
    images = [i for i in job.images if i.index == reference.index]
    result = images[0].render.result if images and not images[0].dropped else None
    if result is None:
        raise _refusal(field, "the job has no such picture, or not yet")
    try:
        return b"".join(farm.results.read(result))
    except ResultGone:
        raise _refusal(field, "the picture of this job is no longer stored") from None


def _fetched(farm: Farm, url: str, field: str) -> bytes:
    try:
        with _room_for(FETCHING):
            return farm.fetcher.get(url)
    except (UrlNotAllowed, OutboundFailed) as error:
        raise _refusal(field, f"the URL {error}") from None


def _refuse_other_size(given: Given) -> None:
    if given.init and given.mask:
        wanted, found = (f"{i.width} x {i.height}" for i in (given.init, given.mask))
        if wanted != found:
            told = f"the mask is {found} and must be as large as init_image, {wanted}"
            raise _refusal("mask_image", told)


def _refusal(field: str, why: str) -> Problem:
    return refuse([Fault("invalid_image", field, why)])


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
        with _room_for(TAKEN_IN), DECODING:
            return make_plain(data, role, invert=invert)
    except BadPicture as error:
        raise _refusal(field, str(error)) from None


@contextmanager
def _room_for(places: BoundedSemaphore) -> Iterator[None]:
    if not places.acquire(blocking=False):
        busy = "many pictures are being read just now; send it again"
        raise Problem(503, "inputs_busy", busy, headers={"Retry-After": "2"})
    try:
        yield
    finally:
        places.release()
