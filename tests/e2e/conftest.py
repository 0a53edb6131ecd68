"""One tiny model for all farms, and one farm that tests share which do it no lasting harm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.farm import RunningFarm

KEYS = {"alice": "key-of-alice", "bob": "key-of-bob", "carol": "key-of-carol"}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def farm(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """Open, two workers. A test leaves it as it was; its file stands in `TOGETHER` of tests/spread.py."""
    folder = tmp_path_factory.mktemp("farm")
    more = {"FARM_LEASE_S": "2", "FARM_WEBHOOK_ALLOW_HOSTS": "127.0.0.1"}
    with RunningFarm(folder, models, workers=2, **more) as running:
        yield running
