"""What only a card can show: its modes' pictures and peaks. The ladder needs SD3.5 itself.

Run with `make gpu`. Nothing of this page has been run on a card yet.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.errors import ModelUnavailable
from shared.models import ModelEntry
from shared.settings import load_settings
from tests.orders import spec
from worker.engines.port import Renderer
from worker.loading.fit import need
from worker.loading.refuse import reasons
from worker.loading.weights import known

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TINY = load_catalog().find("tiny")
# Peaks that others published for 1024 px, in GB of 10**9 bytes.
PUBLISHED = [
    ("sd3.5-large", {"precision": "bf16"}, 26),
    ("sd3.5-large", {"precision": "fp8", "placement": "model-offload"}, 18),
    ("sd3.5-large", {"precision": "fp8", "t5": "int8", "placement": "model-offload"}, 11),
    ("sd3.5-medium", {"precision": "fp8", "t5": "int8", "placement": "model-offload"}, 6),
]


def engine_of(entry: ModelEntry, folder: Path | None = None) -> Renderer:
    from worker.loading.devices import card_of
    from worker.loading.load import load

    if told := reasons(entry, card_of("cuda:0")):
        pytest.skip(told[0])
    environ = {"FARM_MODEL_CACHE_DIR": str(folder)} if folder else None
    return load(entry, load_settings(environ), "cuda:0")


def drawn(engine: Renderer, entry: ModelEntry, side_px: int = 256, steps: int = 8) -> bytes:
    order = spec(7, model_digest=entry.digest, width=side_px, height=side_px, steps=steps)
    return engine.render(order, lambda step, steps: None).rgb


def difference(a: bytes, b: bytes) -> float:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def plain(folder: Path) -> bytes:
    return drawn(engine_of(TINY, folder), TINY)


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({"precision": "fp8"}, 12),
        ({"precision": "fp8-storage"}, 8),
        ({"precision": "int8"}, 6),
        ({"precision": "nf4"}, 25),
        ({"precision": "bf16", "t5": "int8"}, 6),
        ({"precision": "bf16", "t5": "nf4"}, 10),
        ({"precision": "bf16", "t5": "fp8"}, 6),
        ({"precision": "fp8", "t5": "int8", "placement": "model-offload"}, 12),
        ({"precision": "fp8", "t5": "fp8", "placement": "text-offload"}, 12),
        ({"precision": "int8", "t5": "nf4", "placement": "group-offload"}, 12),
        ({"precision": "nf4", "t5": "nf4", "placement": "text-offload"}, 25),
        ({"placement": "text-offload"}, 0.5),
        ({"placement": "group-offload"}, 0.5),
        ({"placement": "sequential-offload"}, 0.5),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_mode_draws_nearly_what_fp32_draws_and_again_to_the_bit(
    folder: Path, plain: bytes, changes: dict[str, str], levels: float
) -> None:
    entry = TINY.model_copy(update=changes)
    engine = engine_of(entry, folder)
    first = drawn(engine, entry)

    assert difference(first, plain) < levels
    assert drawn(engine, entry) == first


@pytest.mark.parametrize("placement", ["model-offload", "group-offload", "sequential-offload"])
def test_between_two_renders_nothing_stays_on_the_card(folder: Path, placement: str) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    entry = TINY.model_copy(update={"placement": placement})
    engine = engine_of(entry, folder)

    drawn(engine, entry)

    weights_bytes = sum(f.stat().st_size for f in folder.rglob("*.safetensors"))
    assert torch.cuda.memory_allocated() - before < 0.2 * weights_bytes


@pytest.mark.parametrize(("name", "changes", "published_gb"), PUBLISHED)
def test_the_ladder_of_peaks_is_the_published_one_and_the_arithmetics(
    name: str, changes: dict[str, str], published_gb: float
) -> None:
    """On the real weights, which must lie in the farm's own cache already."""
    entry = load_catalog().find(name).model_copy(update=changes)
    weights = known(entry)
    assert weights
    try:
        engine = engine_of(entry)
    except ModelUnavailable as error:
        pytest.skip(f"{name} is not at hand: {error}")
    torch.cuda.reset_peak_memory_stats()

    drawn(engine, entry, 1024, 4)

    peak_gb = torch.cuda.max_memory_allocated() / 1e9
    print(f"{name} {changes}: {peak_gb:.1f} GB measured, {published_gb} GB published")
    assert peak_gb < need(entry, weights)[entry.placement] / 1e9
    assert peak_gb < 1.2 * published_gb
