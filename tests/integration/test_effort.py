"""What a render says of itself: its steps, its arithmetic, and how much of it was remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from shared.flops import Mmdit
from shared.jobs import Effort, StoredResult
from shared.results import names
from shared.settings import Settings
from tests.bench import Farm
from tests.orders import TINY, spec, submission
from worker.engines.ceiling import matrix_rate
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.loading.load import load

ENTRY = TINY.model_copy(update={"source": "tiny:size=small", "max_sequence_length": 32})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> DiffusersSD3:
    engine = load(ENTRY, Settings(model_cache_dir=tmp_path_factory.mktemp("cache")), "cpu")
    assert isinstance(engine, DiffusersSD3)
    return engine


def effort_of(engine: DiffusersSD3, **changes: object) -> Effort:
    effort = engine.render(spec(**changes), lambda done, total: None).effort
    assert effort is not None
    return effort


def test_its_arithmetic_is_what_torch_counts_while_it_denoises(engine: DiffusersSD3) -> None:
    # The counter knows no CPU attention but the plain one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        effort = effort_of(engine, prompt="a red fox", steps=3, width=96)

    by_part = counter.get_flop_counts()["SD3Transformer2DModel"]
    assert effort.tflop == pytest.approx(sum(by_part.values()) / 1e12, rel=1e-5)


def test_every_step_has_its_seconds_and_they_make_up_the_denoising(engine: DiffusersSD3) -> None:
    picture = engine.render(spec(steps=5), lambda done, total: None)

    assert len(picture.steps_s) == 5
    assert min(picture.steps_s) > 0
    assert sum(picture.steps_s) <= picture.timings_s["denoise"]
    assert picture.effort is not None
    assert picture.effort.slowest_step_s == pytest.approx(max(picture.steps_s), rel=1e-5)


def test_the_rate_is_arithmetic_by_time_and_the_share_is_of_the_ceiling(
    engine: DiffusersSD3,
) -> None:
    picture = engine.render(spec(), lambda done, total: None)

    effort = picture.effort
    assert effort is not None
    assert effort.tflop is not None
    assert effort.tflop_per_s == pytest.approx(
        effort.tflop / picture.timings_s["denoise"], rel=1e-4
    )
    ceiling = engine._meter._ceiling
    assert ceiling is not None
    assert effort.ceiling_share == pytest.approx(effort.tflop_per_s * 1e12 / ceiling, rel=1e-4)


def test_prompts_are_told_as_encoded_or_remembered(engine: DiffusersSD3) -> None:
    first = effort_of(engine, prompt="a harbour", negative_prompt="fog")
    second = effort_of(engine, prompt="a harbour", negative_prompt="rain")
    alone = effort_of(engine, prompt="a harbour", guidance_scale=1.0)

    told = [(e.prompts_encoded, e.prompts_remembered) for e in (first, second, alone)]
    assert told == [(2, 0), (1, 1), (0, 1)]


def test_a_cpu_has_no_peak_of_its_own(engine: DiffusersSD3) -> None:
    assert effort_of(engine).peak_memory_bytes is None


def test_a_render_that_failed_leaves_the_next_ones_numbers_alone(engine: DiffusersSD3) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.render(spec(steps=4), stop)

    assert len(engine.render(spec(steps=3), lambda done, total: None).steps_s) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_ceiling_is_a_rate_that_a_cpu_can_have(precision: str) -> None:
    rate = matrix_rate(torch.device("cpu"), precision)  # type: ignore[arg-type]

    assert rate is not None
    assert 1e6 < rate < 1e15


def test_the_ceiling_is_unknown_where_there_is_no_memory_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "randn", none_left)

    assert matrix_rate(torch.device("cpu"), "fp32") is None


def test_a_stored_result_and_the_metrics_have_the_numbers(engine: DiffusersSD3) -> None:
    farm = Farm(engine=engine)
    farm.store.submit(
        submission(seed=3, model_digest=TINY.digest, prompt="a tower", negative_prompt="ice")
    )

    farm.bench.take()
    farm.keep.close()

    ((result, _),) = farm.results.kept.values()
    assert result.effort is not None
    assert result.effort.tflop is not None

    def sample(name: str, **labels: str) -> float | None:
        return farm.registry.get_sample_value(f"renderfarm_{name}", labels)

    assert sample("denoise_flops_total") == pytest.approx(result.effort.tflop * 1e12)
    assert sample("denoise_step_seconds_count") == 4
    assert sample("denoise_ceiling_ratio") == result.effort.ceiling_share
    assert sample("prompts_total", outcome="encoded") == 2


def test_readers_of_before_read_what_has_numbers_and_ours_what_has_none(tmp_path: Path) -> None:
    effort = Effort(tflop=1.5, step_s=0.1)
    known = {"fingerprint": "f" * 64, "token": "t", "size_bytes": 1, "sha256": "0", "width": 64}
    result = StoredResult.model_validate(known | {"height": 64, "stored_at": 1.0, "effort": effort})
    record = json.loads(names.encode(result, {}))

    assert record["effort"]["tflop"] == 1.5
    assert names.decode(json.dumps(record).encode(), "f" * 64, "t") == result
    del record["effort"]
    older = names.decode(json.dumps(record).encode(), "f" * 64, "t")
    assert older is not None
    assert older.effort is None


def test_tiny_is_no_mmdit_of_its_own(engine: DiffusersSD3) -> None:
    mmdit = Mmdit.of(engine._pipe.transformer.config)

    assert (mmdit.layers, mmdit.dual, mmdit.width) == (1, frozenset({0}), 32)
