"""Hugging Face's and A1111's orders in native words, and A1111's answers: no app, no store."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects import a1111, plain
from api.dialects.wish import Wish
from api.errors import Problem
from api.reading import read
from api.schemas import Limits, NewJob
from tests.api_kit import CATALOG, LARGE


def order_of(wish: Wish) -> NewJob:
    return read(wish.fields, Limits(CATALOG, 10), known_as=wish.spelled, found=wish.faults)


def refused(wish: Wish) -> tuple[str, str]:
    with pytest.raises(Problem) as caught:
        order_of(wish)
    shown = caught.value.faults[0].shown()
    return shown["code"], shown["pointer"]


# ------------------------------------------------------------------------------- image bytes


def test_native_fields_are_taken_and_others_named() -> None:
    wish = plain.translate({"prompt": "a fox", "size": "128x64", "steps": 3, "huh": 1, "n": 1})

    order = order_of(wish)
    assert (order.prompt, order.width, order.steps) == ("a fox", 128, 3)
    assert wish.headers == {"X-Ignored-Params": "huh"}


def test_one_image_only() -> None:
    assert refused(plain.translate({"prompt": "a fox", "n": 2})) == ("invalid_value", "#/n")


def test_the_body_of_hugging_face() -> None:
    parameters = {"num_inference_steps": 3, "guidance_scale": 2.0, "seed": 5, "scheduler": "x"}
    wish = plain.translate({"inputs": "a fox", "parameters": parameters, "options": {}})

    order = order_of(wish)
    assert (order.prompt, order.steps, order.guidance_scale, order.seed) == ("a fox", 3, 2.0, 5)
    assert wish.headers == {"X-Ignored-Params": "options, parameters/scheduler"}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"inputs": 5}, "#/inputs"),
        ({"inputs": "x", "parameters": []}, "#/parameters"),
        ({"inputs": "x", "parameters": {"seed": "a"}}, "#/parameters/seed"),
        (
            {"inputs": "x", "parameters": {"num_inference_steps": 0}},
            "#/parameters/num_inference_steps",
        ),
    ],
)
def test_a_fault_is_named_as_the_client_spelled_it(body: dict[str, Any], pointer: str) -> None:
    assert refused(plain.translate(body)) == ("invalid_value", pointer)


# ------------------------------------------------------------------------------------ A1111


def test_the_web_uis_fields() -> None:
    wish = a1111.translate(
        {"prompt": "a fox", "negative_prompt": "fog", "cfg_scale": 3, "seed": -1, "steps": 4,
         "batch_size": 2, "n_iter": 3, "sampler_name": "Euler", "width": 250, "height": 70},
        None,
    )  # fmt: skip

    order = order_of(wish)
    assert (order.n, order.width, order.height, order.guidance_scale) == (6, 256, 64, 3)
    assert wish.headers == {"X-Ignored-Params": "sampler_name"}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"batch_size": 4, "n_iter": 3}, ("invalid_value", "#/batch_size")),
        ({"n_iter": 11}, ("invalid_value", "#/n_iter")),
        ({"n_iter": 0}, ("invalid_value", "#/n_iter")),
        ({"batch_size": "2"}, ("invalid_value", "#/batch_size")),
        ({"batch_size": 10**30}, ("invalid_value", "#/batch_size")),
        ({"width": 20_000}, ("invalid_size", "#/width")),
        ({"width": "512"}, ("invalid_size", "#/width")),
        ({"cfg_scale": 31}, ("invalid_value", "#/cfg_scale")),
        ({"override_settings": []}, ("invalid_value", "#/override_settings")),
        (
            {"override_settings": {"sd_model_checkpoint": "nobody"}},
            ("model_not_found", "#/override_settings/sd_model_checkpoint"),
        ),
    ],
)
def test_faults_of_the_web_ui(body: dict[str, Any], fault: tuple[str, str]) -> None:
    assert refused(a1111.translate({"prompt": "a fox", **body}, None)) == fault


def test_the_model_is_the_orders_own_else_the_chosen_one() -> None:
    override = {"override_settings": {"sd_model_checkpoint": a1111.title(LARGE), "other": 1}}
    wish = a1111.translate({"prompt": "a fox", **override}, "tiny")

    assert order_of(wish).model == "large"
    assert wish.headers == {"X-Ignored-Params": "override_settings/other"}
    assert order_of(a1111.translate({"prompt": "a fox"}, "large")).model == "large"
    assert order_of(a1111.translate({"prompt": "a fox"}, None)).model is None


def test_an_image_to_start_from() -> None:
    body = {"prompt": "a fox", "init_images": ["aaaa", "bbbb"], "mask": "cccc"}

    wish = a1111.translate(body, None, image=True)

    assert wish.fields["init_image"] == "aaaa"
    assert wish.fields["mask_image"] == "cccc"
    assert wish.fields["strength"] == a1111.DENOISING_STRENGTH
    assert wish.headers == {"X-Ignored-Params": "init_images/1"}


@pytest.mark.parametrize("images", [None, [], "aaaa", [5]])
def test_img2img_without_an_image_is_refused(images: object) -> None:
    wish = a1111.translate({"prompt": "a fox", "init_images": images}, None, image=True)
    assert [fault.name for fault in wish.faults] == ["init_images"]


def test_no_job_is_no_progress() -> None:
    shown = a1111.progress(None, None, None)

    assert (shown["progress"], shown["eta_relative"], shown["current_image"]) == (0.0, 0.0, None)
    assert shown["state"]["job_count"] == 0
