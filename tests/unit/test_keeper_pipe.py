"""What the keeper makes of its pipe, without a process or a server."""

from __future__ import annotations

import os

import pytest

from shared.jobs import RenderState
from shared.store.memory import MemoryJobStore
from tests.orders import POOL, submission
from worker.keeper import Keeper, _Lines, _serve


def test_the_last_words_of_a_dead_worker_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryJobStore()
    job = store.submit(submission()).job
    taken = store.claim(POOL, "token", "slot", "worker", 600.0)
    assert taken
    keeper = Keeper(store, 600.0, 600.0, lambda line: None, 0)
    reads, writes = os.pipe()  # its write end stays open, as a child of the worker may keep it
    line = f'{{"hold": "token", "render": "{taken.render_id}"}}\n{{"bye": "deaf"}}\n'
    os.write(writes, line.encode())
    parents = iter([1, 2])  # it died while the keeper was busy
    monkeypatch.setattr(os, "getppid", lambda: next(parents))

    _serve(keeper, _Lines(reads), 0.5)
    keeper.give_back(store, "slot")

    render = store.get(job.id).images[0].render
    assert (render.state, render.last_loss) == (RenderState.queued, "deaf")
    os.close(reads)
    os.close(writes)
