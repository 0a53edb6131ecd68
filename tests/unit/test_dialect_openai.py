"""OpenAI's orders in native words, and its answers: no app, no store."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.openai import scalars, translate
from api.dialects.wish import Wish
from api.errors import Problem
from api.reading import read
from api.schemas import Limits, NewJob
from shared.catalog import Catalog
from shared.models import ModelEntry
from tests.api_kit import CATALOG, LARGE, TINY

TURBO = ModelEntry(id="turbo", source="hf:lab/turbo", steps=4, guidance_scale=0.0)
MODELS = Catalog([TINY, LARGE, TURBO], "tiny")


def wish_of(body: dict[str, Any], **how: Any) -> Wish:
    return translate({"prompt": "a fox", **body}, MODELS, **{"unknown_model": "default", **how})[0]


def order_of(body: dict[str, Any], **how: Any) -> NewJob:
    wish = wish_of(body, **how)
    return read(wish.fields, Limits(MODELS, 10), known_as=wish.spelled, found=wish.faults)


def refused(body: dict[str, Any], **how: Any) -> tuple[str, str | None]:
    with pytest.raises(Problem) as caught:
        order_of(body, **how)
    assert caught.value.status == 400
    return caught.value.code, caught.value.param


def test_what_is_like_ours_is_taken_as_it_is() -> None:
    order = order_of({"n": 3, "seed": 7, "size": "128x64", "output_format": "webp", "cfg_scale": 2})

    assert (order.n, order.seed, order.width, order.height) == (3, 7, 128, 64)
    assert (order.output_format, order.guidance_scale) == ("webp", 2)


@pytest.mark.parametrize("size", [None, "auto"])
def test_a_size_that_is_left_to_us_is_the_models(size: str | None) -> None:
    assert order_of({"size": size}).width is None


@pytest.mark.parametrize("size", ["big", "1000x1000", "64", "64x64x64", 64, "16x16"])
def test_a_bad_size_is_refused(size: object) -> None:
    assert refused({"size": size}) == ("invalid_size", "size")


@pytest.mark.parametrize(
    ("name", "served"),
    [
        (None, None), ("large", "large"), ("lab/tiny", "tiny"), ("dall-e-3", "tiny"),
        ("gpt-image-1", "tiny"), ("something", "tiny"),
    ],
)  # fmt: skip
def test_any_model_name_is_served(name: str | None, served: str | None) -> None:
    assert order_of({"model": name}).model == served


def test_an_unknown_model_can_be_refused_but_an_alias_never_is() -> None:
    assert refused({"model": "something"}, unknown_model="reject") == ("model_not_found", "model")
    assert order_of({"model": "gpt-image-1"}, unknown_model="reject").model == "tiny"


@pytest.mark.parametrize("policy", ["default", "reject"])
def test_the_probe_of_nextcloud_is_always_refused(policy: str) -> None:
    body = {"model": "invalid-model"}
    assert refused(body, unknown_model=policy) == ("model_not_found", "model")


def test_a_model_that_is_no_name_is_refused() -> None:
    assert refused({"model": 5}) == ("invalid_value", "model")


def test_a_deployment_in_the_path_speaks_before_the_body() -> None:
    assert order_of({"model": "tiny"}, deployment="large").model == "large"


@pytest.mark.parametrize(
    ("quality", "steps", "word"),
    [
        ("low", 10, "low"), ("medium", None, "medium"), ("auto", None, "medium"),
        ("standard", None, "medium"), ("high", 30, "high"), ("hd", 30, "high"),
        ("xhigh", 35, "xhigh"), ("max", 40, "max"), (None, None, "medium"),
    ],
)  # fmt: skip
def test_quality_is_a_share_of_the_default_steps(quality: str, steps: int, word: str) -> None:
    assert order_of({"quality": quality}).steps == steps
    manner = translate({"quality": quality}, MODELS, unknown_model="default")[1]
    assert manner.quality == word


def test_quality_stays_within_the_models_limit() -> None:
    short = ModelEntry(id="short", source="tiny:", steps=28, max_steps=30)
    wish, _ = translate({"quality": "max"}, Catalog([short], "short"), unknown_model="default")
    assert wish.fields["steps"] == 30


def test_steps_win_over_quality() -> None:
    assert order_of({"quality": "high", "steps": 5}).steps == 5
    assert order_of({"quality": "high", "num_inference_steps": 5}).steps == 5


def test_a_distilled_model_ignores_quality_and_says_so() -> None:
    wish = wish_of({"quality": "high", "model": "turbo"})

    assert "steps" not in wish.fields
    assert wish.headers == {"X-Ignored-Params": "quality"}


@pytest.mark.parametrize("quality", ["best", 5, "", ["high"], {}])
def test_an_unknown_quality_is_refused(quality: object) -> None:
    assert refused({"quality": quality}) == ("invalid_value", "quality")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, "b64_json"),
        ({"model": "gpt-image-1"}, "b64_json"),
        ({"model": "dall-e-2"}, "url"),
        ({"model": "dall-e-9"}, "url"),
        ({"model": "dall-e-3", "response_format": "b64_json"}, "b64_json"),
        ({"response_format": "url"}, "url"),
    ],
)
def test_the_response_format_follows_the_name_that_was_asked_for(
    body: dict[str, Any], wanted: str
) -> None:
    assert translate(body, MODELS, unknown_model="default")[1].response_format == wanted


@pytest.mark.parametrize("wanted", ["png", 1, ["url"]])
def test_another_response_format_is_refused(wanted: object) -> None:
    assert refused({"response_format": wanted}) == ("invalid_value", "response_format")


@pytest.mark.parametrize("kind", ["gif", "svg"])
def test_formats_that_cannot_be_made_are_refused(kind: str) -> None:
    assert refused({"output_format": kind}) == ("invalid_value", "output_format")


@pytest.mark.parametrize("name", ["svg", "frame_count", "frame_duration_ms"])
def test_animations_are_refused(name: str) -> None:
    assert refused({name: 5}) == ("unsupported_for_model", name)


def test_what_has_no_effect_is_named_and_nothing_else() -> None:
    wish = wish_of(
        {"background": "opaque", "moderation": "low", "style": "vivid", "complexity": 1, "huh": 2}
        | {"user": "u", "size": "auto", "n": 1, "quality": "auto", "response_format": "url"}
    )

    assert wish.headers["X-Ignored-Params"] == "background, moderation, style, complexity, huh"


def test_a_name_that_no_header_can_carry_is_left_out() -> None:
    assert wish_of({"a\r\nb": 1, "ü": 1, "x" * 65: 1, "ok": 1}).headers == {
        "X-Ignored-Params": "ok"
    }


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
def test_the_clients_own_user_is_kept(name: str) -> None:
    assert order_of({name: "u1", "metadata": {"a": "b"}}).metadata == {"user": "u1", "a": "b"}
    assert len(order_of({name: "u" * 1000}).metadata["user"]) == 512


@pytest.mark.parametrize("name", ["user", "safety_identifier"])
def test_a_user_gives_way_to_metadata_that_is_full(name: str) -> None:
    full = {str(k): "" for k in range(16)}

    assert order_of({name: "u1", "metadata": full}).metadata == full
    assert wish_of({name: "u1", "metadata": full}).ignored == [name]


def test_null_means_absent() -> None:
    body = dict.fromkeys(("n", "seed", "user", "response_format", "stream", "huh", "quality"))
    wish = wish_of(body)

    assert (wish.fields, wish.faults, wish.headers) == ({"prompt": "a fox"}, [], {})


def test_partial_images_count_only_in_a_stream() -> None:
    assert wish_of({"partial_images": 2, "stream": True}).fields["partial_images"] == 2
    quiet = wish_of({"partial_images": 2})
    assert "partial_images" not in quiet.fields
    assert quiet.headers == {"X-Ignored-Params": "partial_images"}


def test_stream_is_a_bool() -> None:
    assert refused({"stream": "yes"}) == ("invalid_value", "stream")


@pytest.mark.parametrize("n", [0, 11, "2", 1.5, True])
def test_n_is_one_to_ten(n: object) -> None:
    assert refused({"n": n}) == ("invalid_value", "n")


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(Problem) as caught:
        order_of({"n": 0, "quality": "?", "size": "x", "model": "invalid-model"})

    assert {fault.name for fault in caught.value.faults} == {"n", "quality", "size", "model"}


def test_a_form_says_everything_in_text() -> None:
    fields = scalars(
        {"n": "2", "stream": "true", "strength": "0.5", "metadata": '{"a":"b"}', "prompt": "1",
         "seed": "", "steps": "many"}
    )  # fmt: skip

    assert fields == {
        "n": 2, "stream": True, "strength": 0.5, "metadata": {"a": "b"}, "prompt": "1",
        "steps": "many",
    }  # fmt: skip


def test_the_catalog_of_the_tests_has_the_aliases() -> None:
    assert CATALOG.find("gpt-image-1") is TINY
