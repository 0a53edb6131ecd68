"""Folders baked in what only a card can quantize. Run with `make gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.models import ModelEntry
from shared.settings import Settings
from tests.orders import spec

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def drawn(entry: ModelEntry, settings: Settings) -> bytes:
    from worker.loading.load import load

    order = spec(7, model_digest=entry.digest, width=128, height=128, steps=4)
    return load(entry, settings, "cuda:0").render(order, lambda step, steps: None).rgb


@pytest.mark.parametrize(("precision", "t5"), [("fp8", "int8"), ("nf4", "nf4"), ("int8", "fp8")])
def test_a_folder_baked_on_a_card_draws_the_same_pictures(
    tiny_folder: Path, tmp_path: Path, precision: str, t5: str
) -> None:
    from worker.loading.bake import bake

    if precision == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card does not multiply FP8")
    fields = {"precision": precision, "t5": t5, "min_side_px": 16, "max_sequence_length": 32}
    entry = ModelEntry(id="m", source=f"dir:{tiny_folder}", width=128, height=128, **fields)
    settings = Settings(model_cache_dir=tmp_path)

    baked = bake(entry, tiny_folder, tmp_path / "baked", device="cuda:0", shard="300KB")

    assert drawn(baked, settings) == drawn(entry, settings)
