"""Farms that tests may hurt; the tiny model is built once for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import verdict
from tests.chaos.farm import READY_S, ChaosFarm
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Farms under this folder share `models`."""
    return tmp_path_factory.mktemp("chaos")


@pytest.fixture(scope="session")
def shared_farm(ground: Path) -> Iterator[ChaosFarm]:
    with ChaosFarm(ground / "farm") as farm:
        yield farm


@pytest.fixture
def farm(shared_farm: ChaosFarm) -> Iterator[ChaosFarm]:
    """Two workers, two APIs, two chores. After the test: nothing is left and all adds up."""
    shared_farm.wire.disarm()
    wait_until(shared_farm.ready, READY_S, "for the farm to be whole")
    yield shared_farm
    assert at_rest(shared_farm) == []


def at_rest(farm: ChaosFarm) -> list[str]:
    """What is wrong once every render is final."""
    books = [verdict.Books.of(farm)]

    def still() -> bool:
        books[:] = [verdict.Books.of(farm)]
        return not any(books[0].left.values())

    wait_until(still, 60.0, f"for the farm to come to rest: {books[0].left}")
    return verdict.wrong_books(farm, books[0])
