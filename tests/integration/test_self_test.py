"""Renders that fail in a row on the real pipeline: an order's fault, or the device's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import pytest
import torch

from shared.jobs import JobStatus
from shared.settings import Settings
from tests.bench import Farm
from tests.orders import TINY, submission
from worker import exits
from worker.engines.port import Renderer
from worker.loading.load import load

REFUSED = {"skip_layer_guidance": 1.0}  # this engine fails such orders: `render_error`


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return load(TINY, Settings(model_cache_dir=tmp_path_factory.mktemp("cache")), "cpu")


@pytest.fixture
def farm(engine: Renderer) -> Iterator[Farm]:
    farm = Farm(engine=engine)
    farm.health.max_failures = 3
    yield farm
    farm.keep.close()


@contextmanager
def not_finite(weight: torch.Tensor) -> Iterator[None]:
    """What damaged memory of a card does: it computes, and nothing raises."""
    before = weight.detach().clone()
    weight.data.fill_(float("nan"))
    try:
        yield
    finally:
        weight.data.copy_(before)


def weights(engine: Any, part: str) -> torch.Tensor:
    return next(attrgetter(part)(engine._pipe).parameters())  # type: ignore[no-any-return]


def test_a_client_whose_orders_fail_sends_no_worker_into_quarantine(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [farm.store.submit(submission(seed=k, **REFUSED)).job for k in range(3)]
    good = farm.store.submit(submission(seed=9)).job

    assert all(farm.bench.take() for _ in range(4))
    farm.keep.close()

    assert {farm.store.get(job.id).status for job in jobs} == {JobStatus.failed}
    assert farm.store.get(good.id).status is JobStatus.succeeded
    assert (farm.left, farm.unwell, farm.health.failures) == ([], 0, 0)
    assert "self_test_passed" in [getattr(record, "action", "") for record in caplog.records]


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae.decoder"])
def test_a_device_that_computes_nonsense_fails_its_self_test_and_leaves(
    farm: Farm, engine: Renderer, part: str
) -> None:
    farm.store.submit(submission(n=4))

    with not_finite(weights(engine, part)):
        taken = [farm.bench.take() for _ in range(4)]

    engine.warm_up()  # it forgets what it encoded meanwhile
    assert taken == [True, True, True, False]
    assert (farm.left, farm.unwell) == ([exits.UNWELL], 1)
