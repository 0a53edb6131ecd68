"""What the libraries do in silence, and a render must not: each test fails without our remedy."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Canceled
from tests.engines import drawn, entry_of, loaded, on_step, order


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(entry_of(), tmp_path_factory.mktemp("models"))


def test_sixteen_threads_get_the_pictures_that_they_ordered(engine: Any) -> None:
    orders = [
        order(seed=k, steps=1 + k % 3, shift=1.0 + k % 2, width=64 + 16 * (k % 2))
        for k in range(16)
    ]
    alone = [drawn(engine, spec) for spec in orders]

    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda spec: drawn(engine, spec), orders))

    assert together == alone


def test_a_prompt_that_is_too_long_is_shortened_without_being_logged(
    engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    libraries = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    for library in libraries:  # they pass nothing on to the root
        library.addHandler(caplog.handler)

    drawn(engine, order(prompt="marzipan castle " * 100))

    for library in libraries:
        library.removeHandler(caplog.handler)
    assert "marzipan" not in caplog.text


def test_a_remembered_prompt_does_not_remember_how_it_was_made(engine: Any) -> None:
    drawn(engine, order())

    tensors = [each for made in engine._prompts._remembered.values() for each in made]
    assert tensors
    assert not [each for each in tensors if each.requires_grad]


def test_a_cancel_lets_an_offload_take_its_weights_back(tmp_path: Path) -> None:
    """The pipeline itself does so only at the end of a call that came to its end."""
    engine = loaded(entry_of(), tmp_path)
    freed: list[bool] = []
    engine._pipe.maybe_free_model_hooks = lambda: freed.append(True)

    def cancel(done: int, total: int) -> None:
        raise Canceled

    with pytest.raises(Canceled):
        engine.render(order(), cancel)

    assert freed == [True]
    engine.render(order(), on_step)
