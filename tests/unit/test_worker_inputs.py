"""Input pictures and previews beside a render: fetched, fitted, told; and when they are not to be had."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.errors import Canceled, RenderFailed, ResultsUnavailable, StoreUnavailable
from shared.intake import Plain, make_plain
from shared.results.inputs import Inputs as StoredInputs
from shared.results.local import LocalResults
from shared.store.memory import MemoryJobStore
from shared.store.values import Claim
from tests.orders import POOL, spec, submission
from tests.waiting import wait_until
from worker.inputs import Pantry, fitted
from worker.previews import WAITING, Gallery


def plain(picture: Image.Image, role: Any = "image") -> Plain:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return make_plain(file.getvalue(), role)


@pytest.fixture
def results(tmp_path: Path) -> LocalResults:
    return LocalResults(tmp_path)


@pytest.fixture
def pantry(results: LocalResults) -> Pantry:
    return Pantry(StoredInputs(results))


def put(results: LocalResults, picture: Image.Image, role: Any = "image") -> str:
    made = plain(picture, role)
    StoredInputs(results).put("alice", made.sha256, made.png)
    return made.sha256


def go_on() -> None: ...


def fetched(pantry: Pantry, check: Any = go_on, **named: Any) -> Any:
    coming = pantry.fetch(spec(strength=0.5, **named), check)
    assert coming is not None
    return coming()


def test_a_render_from_noise_fetches_nothing(pantry: Pantry) -> None:
    assert pantry.fetch(spec(), go_on) is None


def test_a_picture_of_the_right_size_comes_untouched(results: Any, pantry: Pantry) -> None:
    picture = Image.effect_noise((64, 64), 90).convert("RGB")
    white = Image.effect_noise((64, 64), 90)

    given = fetched(
        pantry,
        init_image_sha256=put(results, picture),
        mask_image_sha256=put(results, white, "mask"),
    )

    assert given.rgb == picture.tobytes()
    assert given.mask == white.tobytes()


def test_a_picture_of_another_shape_is_scaled_to_cover_and_cut() -> None:
    wide = Image.new("RGB", (400, 100), "red")
    wide.paste("blue", (150, 0, 250, 100))  # the middle square

    square = fitted(wide, 50, 50)

    assert square.size == (50, 50)
    assert square.getpixel((25, 25)) == square.getpixel((3, 3)) == (0, 0, 255)


def test_picture_and_mask_are_cut_alike() -> None:
    picture, mask = Image.new("RGB", (333, 100), "black"), Image.new("L", (333, 100), 0)
    picture.paste("white", (100, 20, 180, 60))
    mask.paste(255, (100, 20, 180, 60))

    a, b = fitted(picture, 64, 48).convert("L"), fitted(mask, 64, 48)

    assert a.size == b.size
    # Scaled by two methods, so only the edges differ.
    assert abs(sum(a.tobytes()) - sum(b.tobytes())) < 0.03 * sum(b.tobytes())
    assert a.point(lambda v: 255 if v > 200 else 0).getbbox() is not None
    box_a, box_b = (one.point(lambda v: 255 if v > 128 else 0).getbbox() for one in (a, b))
    assert all(abs(x - y) <= 1 for x, y in zip(box_a or (), box_b or (), strict=True))


def test_the_images_of_one_job_fetch_once(results: Any, pantry: Pantry) -> None:
    sha256 = put(results, Image.new("RGB", (64, 64), "red"))
    first = fetched(pantry, init_image_sha256=sha256)
    for name in results.list_objects("inputs/"):
        results.delete_object(name)

    assert fetched(pantry, init_image_sha256=sha256) is first


def test_what_is_no_longer_stored_fails_for_good(pantry: Pantry) -> None:
    with pytest.raises(RenderFailed) as failure:
        fetched(pantry, init_image_sha256="a1" * 32)

    assert (failure.value.code, failure.value.retryable) == ("input_missing", False)


@pytest.mark.parametrize("damage", ["other", "cut"])
def test_what_is_not_what_its_name_says_fails_for_good(
    results: Any, pantry: Pantry, damage: str
) -> None:
    made, other = plain(Image.new("RGB", (64, 64), "red")), plain(Image.new("RGB", (64, 64)))
    stored = other.png if damage == "other" else made.png[:60]
    StoredInputs(results).put("alice", made.sha256, stored)

    with pytest.raises(RenderFailed, match="damaged") as failure:
        fetched(pantry, init_image_sha256=made.sha256)

    assert (failure.value.code, failure.value.retryable) == ("input_missing", False)


def test_a_storage_that_does_not_answer_may_be_asked_again() -> None:
    class Down:
        def get(self, sha256: str) -> bytes:
            raise ResultsUnavailable("http://secret.internal does not answer")

    with pytest.raises(RenderFailed) as failure:
        fetched(Pantry(Down()), init_image_sha256="a1" * 32)  # type: ignore[arg-type]

    assert (failure.value.code, failure.value.retryable) == ("storage_unavailable", True)
    assert "secret" not in str(failure.value)


def test_a_cancel_ends_the_wait_for_a_storage_that_hangs() -> None:
    gate = threading.Event()

    class Hanging:
        def get(self, sha256: str) -> bytes:
            gate.wait(20)
            raise ResultsUnavailable

    def check() -> None:
        raise Canceled

    with pytest.raises(Canceled):
        fetched(Pantry(Hanging()), check, init_image_sha256="a1" * 32)  # type: ignore[arg-type]
    gate.set()


# ------------------------------------------------------------------------------------------ previews


@pytest.fixture
def claim() -> Claim:
    store = MemoryJobStore()
    order = submission()
    store.submit(replace(order, job=order.job.model_copy(update={"input": {"partial_images": 3}})))
    taken = store.claim(POOL, "t", "slot", "worker", 60.0)
    assert taken is not None
    return taken


def test_a_preview_is_told_as_a_jpeg_under_its_claim(claim: Claim) -> None:
    told: list[Any] = []
    previews = Gallery(lambda *what: told.append(what)).of(claim)
    assert previews is not None

    previews.show(0, bytes(range(192)), 8, 8)

    wait_until(lambda: told)
    [(render, token, number, image)] = told
    assert (render, token, number) == (claim.render_id, "t", 0)
    with Image.open(io.BytesIO(image)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (32, 32))


def test_none_are_made_where_none_are_ordered(claim: Claim) -> None:
    assert Gallery(lambda *_: None).of(replace(claim, previews=0)) is None


def test_a_store_that_does_not_answer_costs_only_the_preview(claim: Claim) -> None:
    told: list[int] = []

    def tell(render: str, token: str, number: int, image: bytes) -> None:
        told.append(number)
        if number < 2:
            raise StoreUnavailable if number else RuntimeError("unforeseen")

    previews = Gallery(tell).of(claim)
    assert previews is not None
    for number in range(3):
        previews.show(number, bytes(192), 8, 8)

    wait_until(lambda: told == [0, 1, 2])


def test_a_store_that_hangs_never_holds_up_the_render(claim: Claim) -> None:
    gate, told = threading.Event(), []

    def tell(render: str, token: str, number: int, image: bytes) -> None:
        gate.wait(20)
        told.append(number)

    previews = Gallery(tell).of(claim)
    assert previews is not None
    for number in range(100):
        previews.show(number, bytes(192), 8, 8)  # returns at once

    gate.set()
    wait_until(lambda: len(told) in (WAITING, WAITING + 1))
    assert told[0] == 0
