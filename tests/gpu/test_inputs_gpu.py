"""Image to image, inpainting and previews on a card. Run with `make gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.models import ModelEntry
from shared.settings import load_settings
from tests.orders import spec
from worker.engines.port import Inputs, Previews

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIDE = 128
RGB = bytes(level for y in range(SIDE) for x in range(SIDE) for level in (x * 2, y * 2, 90))
MASK = bytes(255 * (x >= SIDE // 2) for y in range(SIDE) for x in range(SIDE))


def picture(entry: ModelEntry, folder: Path, device: str) -> bytes:
    from worker.loading.load import load

    settings = load_settings({"FARM_MODEL_CACHE_DIR": str(folder)})
    engine = load(entry, settings, device)
    inputs = {"init_image_sha256": "a1" * 32, "mask_image_sha256": "b2" * 32, "strength": 0.7}
    digest = entry.digest
    order = spec(7, model_digest=digest, width=SIDE, height=SIDE, steps=8, **inputs)
    seen: list[int] = []
    previews = Previews(2, lambda number, *_: seen.append(number))
    drawn = engine.render(order, lambda step, steps: None, lambda: Inputs(RGB, MASK), previews)
    assert seen == [0, 1]
    return drawn.rgb


@pytest.mark.parametrize("placement", ["gpu", "model-offload", "sequential-offload"])
def test_a_card_repaints_what_the_cpu_repaints(
    tmp_path_factory: pytest.TempPathFactory, placement: str
) -> None:
    entry = load_catalog().find("tiny")
    folder = tmp_path_factory.mktemp("models")

    cpu = picture(entry, folder, "cpu")
    card = picture(entry.model_copy(update={"placement": placement}), folder, "cuda")

    assert sum(abs(a - b) for a, b in zip(cpu, card, strict=True)) / len(cpu) < 1.0
    kept = [at for at, level in enumerate(MASK) if not level]
    assert all(card[3 * at : 3 * at + 3] == RGB[3 * at : 3 * at + 3] for at in kept)
