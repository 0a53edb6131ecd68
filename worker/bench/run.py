"""Runs the plan: one process after the other, so that peaks of memory and compiled code never mix."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from worker.bench.plan import Plan, Run

Say = Callable[[str], None]
LEAST_S = 20.0  # of the budget that must be left to begin one more


def measured(plan: Plan, folder: Path, budget_s: float, say: Say) -> Iterator[dict[str, Any]]:
    """The rows, each as soon as it is there. Raises SettingsError.

    `folder` takes one shape's weights at a time, up to 28 GB, and what passes between the processes.
    """
    end, made, unmade = time.monotonic() + budget_s, folder / "none", ""
    for number, run in enumerate(plan.runs(folder)):
        left_s = end - time.monotonic()
        if left_s < min(LEAST_S, budget_s):
            if run.task == "variant":
                yield run.title | {"error": "not begun: the time that was given is over"}
            continue
        if run.task == "variant" and unmade:
            yield run.title | {"error": unmade}
            continue
        if run.task == "weights":
            shutil.rmtree(made, ignore_errors=True)
            made = run.weights
        say(_told(run))
        rows = _rows(run, folder / f"{number}.jsonl", left_s)
        if run.task == "weights":
            unmade = rows[-1]["error"] if rows else ""
        else:
            yield from rows


def _told(run: Run) -> str:
    if run.task == "ceilings":
        return "ceilings: matrix products, attention, copies"
    if run.task == "weights":
        return f"making random weights of SD3.5's shape {run.subject.shape}"
    return f"{run.subject.model} {run.px} px, {run.subject.steps} steps: {run.variant}"


def _rows(run: Run, into: Path, limit_s: float) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "worker.bench.child", str(into)]
    try:
        done = subprocess.run(  # noqa: S603
            command, input=run.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=limit_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [*_read(into), run.title | {"error": "stopped: the time that was given is over"}]
    if done.returncode:
        return [*_read(into), run.title | {"error": _end(done.returncode, done.stderr)}]
    return _read(into)


def _end(code: int, said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"its process {how}: {lines[-1][:300]}"


def _read(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
