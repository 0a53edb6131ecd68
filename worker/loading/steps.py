"""The steps of loading a model, told to whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

STEPS = (
    "download", "preflight", "prefetch", "load", "quantize", "place", "compile", "warmup",
)  # fmt: skip
State = Literal["running", "done", "skipped", "failed"]
Report = Callable[[str, State], None]  # (step, its state)


def untold(_step: str, _state: State) -> None:
    """A report that nobody reads."""


@contextmanager
def step(name: str, report: Report) -> Iterator[None]:
    report(name, "running")
    try:
        yield
    except BaseException:
        report(name, "failed")
        raise
    report(name, "done")
