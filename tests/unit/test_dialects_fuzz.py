"""Whatever a foreign order holds, it is read or refused with a 400 that names a field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.dialects import a1111, openai, plain
from api.dialects.wish import Wish
from api.errors import Problem
from api.reading import read
from api.schemas import Limits, NewJob
from tests.api_kit import CATALOG

WORDS = st.sampled_from(
    ["", "auto", "url", "low", "64x64", "tiny", "dall-e-3", "-1", "a\x00b", "ü\r\n"]
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3)
)
NAMES = {
    "openai": sorted(openai._NATIVE | openai._HERE | {"style", "x\r\n", "~/"}),
    "plain": [*sorted(plain._NATIVE), "n", "inputs", "parameters"],
    "a1111": [*sorted(a1111._SAME), "width", "height", "batch_size", "n_iter", "override_settings",
              "init_images", "mask", "denoising_strength", "huh"],
}  # fmt: skip
READERS: dict[str, Callable[[dict[str, Any]], Wish]] = {
    "openai": lambda body: openai.translate(body, CATALOG, unknown_model="default")[0],
    "plain": plain.translate,
    "a1111": lambda body: a1111.translate(body, "tiny", image="init_images" in body),
}


def body_of(dialect: str) -> st.SearchStrategy[dict[str, Any]]:
    nested = st.dictionaries(
        st.sampled_from(["seed", "sd_model_checkpoint", "x"]), JSON, max_size=3
    )
    return st.dictionaries(st.sampled_from(NAMES[dialect]), JSON | nested, max_size=6)


def outcome(wish: Wish) -> NewJob | Problem:
    limits = Limits(CATALOG, 10, blank_prompt=True)
    try:
        return read(wish.fields, limits, known_as=wish.spelled, found=wish.faults)
    except Problem as problem:
        return problem


def is_good(result: NewJob | Problem) -> bool:
    if isinstance(result, Problem):
        return result.status == 400 and bool(result.faults)
    return 1 <= result.n <= 10


@pytest.mark.parametrize("dialect", READERS)
def test_any_order_is_read_or_refused(dialect: str) -> None:
    @settings(max_examples=80, deadline=None)
    @given(body=body_of(dialect))
    def check(body: dict[str, Any]) -> None:
        wish = READERS[dialect](body)

        assert is_good(outcome(wish))
        assert all(value.isascii() and value.isprintable() for value in wish.headers.values())

    check()


@settings(max_examples=80, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(NAMES["openai"]), st.text(max_size=6), max_size=6))
def test_any_form_is_read_or_refused(fields: dict[str, str]) -> None:
    wish, _ = openai.translate(openai.scalars(fields), CATALOG, unknown_model="reject")

    assert is_good(outcome(wish))
