"""What only a card can show: the tiny model on CUDA. Run with `make gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.models import ModelEntry
from shared.settings import load_settings
from tests.orders import spec
from worker.engines.port import Renderer

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def engine_of(entry: ModelEntry, folder: Path, device: str) -> Renderer:
    from worker.loading.load import load

    return load(entry, load_settings({"FARM_MODEL_CACHE_DIR": str(folder)}), device)


def picture(entry: ModelEntry, folder: Path, device: str) -> bytes:
    engine = engine_of(entry, folder, device)
    order = spec(7, model_digest=entry.digest, width=256, height=256, steps=8)
    return engine.render(order, lambda step, steps: None).rgb


def difference(a: bytes, b: bytes) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_a_card_draws_what_the_cpu_draws(folder: Path) -> None:
    entry = load_catalog().find("tiny")

    assert difference(picture(entry, folder, "cpu"), picture(entry, folder, "cuda")) < 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"placement": "model-offload"},
        {"placement": "sequential-offload"},
        {"compile": "regional"},
        {"compile": "full"},
    ],
)
def test_every_placement_and_precision_draws_the_same_picture(
    folder: Path, changes: dict[str, str]
) -> None:
    entry = load_catalog().find("tiny")
    changed = entry.model_copy(update=changes)

    assert difference(picture(entry, folder, "cuda"), picture(changed, folder, "cuda")) < 6.0


def test_a_card_says_how_busy_it_is(folder: Path) -> None:
    card = engine_of(load_catalog().find("tiny"), folder, "cuda").memory()

    assert card is not None
    assert card.utilization is not None
    assert 0 <= card.utilization <= 100


def test_the_same_order_twice_is_the_same_picture(folder: Path) -> None:
    entry = load_catalog().find("tiny")

    assert picture(entry, folder, "cuda") == picture(entry, folder, "cuda")
