"""The ONNX engine on a card: CUDA and TensorRT draw what torch draws. Run with `make gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.models import ModelEntry
from shared.settings import Settings
from tests.orders import spec
from worker.engines.port import Renderer

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("models"))


def picture(entry: ModelEntry, settings: Settings) -> bytes:
    from worker.loading.load import load

    engine: Renderer = load(entry, settings, "cuda")
    order = spec(7, model_digest=entry.digest, width=256, height=192, steps=8)
    return engine.render(order, lambda step, steps: None).rgb


@pytest.mark.timeout(900)  # TensorRT builds its engines
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("precision", "levels"), [("fp32", 1.0), ("fp16", 3.0), ("bf16", 6.0)])
def test_a_card_draws_through_graphs_what_it_draws_through_torch(
    settings: Settings, tmp_path: Path, provider: str, precision: str, levels: float
) -> None:
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {PROVIDERS[provider]}")
    if (provider, precision) == ("cuda", "bf16"):
        pytest.skip("bf16 is for TensorRT")
    from worker.loading.export import export

    entry = load_catalog().find("tiny").model_copy(update={"source": "tiny:size=small"})
    folder = tmp_path / "onnx"
    serving = export(entry, settings, folder, precision=precision)

    graphs = picture(serving.model_copy(update={"provider": provider}), settings)

    torchs = picture(entry, settings)
    assert sum(abs(a - b) for a, b in zip(graphs, torchs, strict=True)) / len(graphs) < levels
