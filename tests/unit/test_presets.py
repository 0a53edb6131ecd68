"""Recipes of presets: who may order one, what it spares, and its name in the fingerprint."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from shared.catalog import load_catalog
from shared.errors import InvalidOrder
from shared.fingerprint import canonical, fingerprint
from shared.models import ModelEntry, Preset
from shared.presets import RECIPES, check, recipe_of, share_of_passes
from tests.orders import spec

MEDIUM = load_catalog().find("sd3.5-medium")


def test_every_preset_but_exact_has_a_recipe_of_its_own() -> None:
    assert set(RECIPES) == {*get_args(Preset)} - {"exact"}
    assert len({recipe.id for recipe in RECIPES.values()}) == len(RECIPES)
    assert recipe_of("exact") is None


@pytest.mark.parametrize("preset", RECIPES)
def test_the_recipe_and_not_the_name_stands_in_the_fingerprint(preset: str) -> None:
    text = canonical(spec(preset=preset)).decode()

    assert f'"preset":"{RECIPES[preset].id}"' in text
    assert "preset" not in canonical(spec()).decode()


def test_the_fingerprint_of_a_known_draft_never_changes() -> None:
    # Another recipe under the same id would answer with pictures of the old one.
    assert fingerprint(spec(7, model_digest="d", preset="draft")) == (
        "27598079fe464df6fc34e957cd508824aee1d03c8918c7a885bc50e634007625"
    )
    assert (RECIPES["draft"].threshold, RECIPES["draft"].most_reused) == (0.2, 4)
    assert (RECIPES["balanced"].threshold, RECIPES["balanced"].most_reused) == (0.08, 2)
    assert [recipe.guided_part for recipe in RECIPES.values()] == [0.8, 0.5]


def test_a_model_of_few_steps_refuses_what_leaves_steps_out() -> None:
    turbo = MEDIUM.model_copy(update={"guidance_scale": 0.0})

    check("exact", turbo, skip_layer_guidance=0.0)
    with pytest.raises(InvalidOrder, match="order exact") as refusal:
        check("balanced", turbo, skip_layer_guidance=0.0)
    assert (refusal.value.code, refusal.value.field) == ("unsupported_for_model", "preset")


@pytest.mark.parametrize(
    ("changes", "skip"), [({"engine": "onnx"}, 0.0), ({}, 2.8)], ids=["onnx", "skip-layer"]
)
def test_what_cannot_be_shortened_refuses_presets(changes: dict[str, str], skip: float) -> None:
    with pytest.raises(InvalidOrder, match="preset draft"):
        check("draft", MEDIUM.model_copy(update=changes), skip_layer_guidance=skip)


def test_other_orders_may_have_them() -> None:
    for preset in get_args(Preset):
        check(preset, MEDIUM, skip_layer_guidance=0.0)


@pytest.mark.parametrize(
    "changes",
    [{"guidance_scale": 0.0}, {"skip_layers": [1], "skip_layer_guidance": 2.8}],
    ids=["distilled", "skip-layer"],
)
def test_no_entry_has_a_default_that_it_would_refuse(changes: dict[str, object]) -> None:
    fields = {"id": "m", "source": "tiny:", "preset": "draft"}

    ModelEntry.model_validate(fields)
    with pytest.raises(ValidationError, match="preset draft: "):
        ModelEntry.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("preset", "guided", "share"),
    [("exact", True, 1), ("balanced", True, 0.9), ("draft", True, 0.75), ("draft", False, 1)],
)
def test_ending_guidance_spares_half_of_what_is_left(
    preset: str, guided: bool, share: float
) -> None:
    assert share_of_passes(preset, steps=20, guided=guided) == share
