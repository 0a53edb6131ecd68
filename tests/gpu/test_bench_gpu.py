"""The benchmark on a card: tiny weights, but the real clocks, peaks and kernels. `make gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.bench.child import rows_of
from worker.bench.plan import SHAPES, Plan

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_one_variant_has_its_peak_its_ceiling_and_its_drift(tmp_path: Path) -> None:
    plan = Plan((SHAPES["turbo"],), ("naive", "engine"), (256,), "cuda", 3, tiny=True)
    rows = [row for run in plan.runs(tmp_path) for row in rows_of(run)]

    assert not [row for row in rows if row.get("error") and "variant" in row]
    naive, engine = rows[-2:]
    assert engine["psnr_db"] > 40
    assert engine["peak_gb"] > 0
    assert naive["ceiling_tflop_per_s"] > 1
    assert 0 < engine["ceiling_share"] < 1
    assert {"cuda", "cudnn", "driver"} <= set(engine["profile"])
    assert any(row["ceiling"].startswith("product bf16") for row in rows if "ceiling" in row)


def test_a_render_tells_its_own_peak_and_the_process_keeps_the_highest(tmp_path: Path) -> None:
    from shared.settings import Settings
    from tests.orders import TINY, spec
    from worker.loading.load import load

    engine = load(TINY, Settings(model_cache_dir=tmp_path), "cuda")

    def peak_bytes(side: int) -> int:
        effort = engine.render(spec(width=side, height=side), lambda done, total: None).effort
        assert effort is not None
        assert effort.peak_memory_bytes is not None
        return effort.peak_memory_bytes

    large, small = peak_bytes(1024), peak_bytes(64)
    gpu = engine.memory()

    assert small < large
    assert gpu is not None
    assert gpu.memory_peak_mb >= large // 2**20
