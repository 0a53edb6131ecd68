"""A few cases for every operation of the document; `make fuzz` sends thousands."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator

import pytest
from schemathesis.core.failures import FailureGroup

from api.openapi import operations
from tests.api_kit import Farm
from tests.fuzz.cases import fuzz
from tests.fuzz.ground import KEY, Ground
from tests.servers.engines import ENGINES

CASES = 10
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}
DOCUMENT = Farm().app.openapi()


@pytest.fixture(scope="module")
def ground(redis_of: Callable[[str], str]) -> Iterator[Ground]:
    ground = Ground(redis_of(ENGINES[0]))
    yield ground
    ground.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name, _ in operations(DOCUMENT)])
def test_no_request_is_a_fault_of_the_farm_or_leaves_anything_when_refused(
    ground: Ground, name: str
) -> None:
    [operation] = [each for each in ground.operations() if each.label == name]

    assert fuzz(ground, operation, CASES, fixed=True) > 0


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (lambda ground: 1 // 0, "answered 500"),
        (lambda ground: ground.leave_a_key(), "1 keys are left"),
        (lambda ground: {"id": 7}, "Response violates schema"),
    ],
    ids=["a crash", "a record left behind", "an answer that is not as described"],
)
def test_a_planted_fault_is_found(
    ground: Ground, fault: Callable[[Ground], object], told: str
) -> None:
    [operation] = [each for each in ground.operations() if each.label == "GET /models/{model_id}"]

    with (
        ground.planted("/models/{model_id}", lambda: fault(ground)),
        pytest.raises((AssertionError, FailureGroup)) as caught,
    ):
        fuzz(ground, operation, 4, fixed=True)

    assert told in "".join(traceback.format_exception(caught.value))


def test_a_method_that_a_url_does_not_answer_is_405_and_says_which_it_does(
    ground: Ground,
) -> None:
    client = ground.farm.client(KEY)
    for path, answered in DOCUMENT["paths"].items():
        known = {name.upper() for name in answered}
        url = re.sub(r"\{[^}]+\}", "x", path).replace("/files/x/x.x", "/files/x/0.png")
        for method in METHODS - known:
            answer = client.request(method, url)

            code = answer.json()["error"]["code"]
            assert (answer.status_code, code) == (405, "method_not_allowed"), (method, path)
            assert set(answer.headers["allow"].split(", ")) >= known
