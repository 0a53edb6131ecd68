"""How `pytest -n` spreads tests: a file goes to one process as a whole, since its tests share servers."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Files that share a server or a farm with other files go together.
TOGETHER = {
    "test_road": "e2e",
    "test_collect": "e2e",
    "test_zombie": "e2e",
    "test_dialects": "e2e",
    "test_inputs_farm": "e2e",
    "test_webhooks_farm": "e2e",
    "test_result_store": "s3",
    "test_result_store_s3": "s3",
    "test_s3": "s3",
}
# What takes longest, so that it does not come last.
FIRST = (
    "test_worker_process", "test_faults", "test_scaling_farm", "test_chaos_short", "s3", "e2e", "test_poison", "test_prometheus",
    "test_owners", "test_tracing", "test_engine_onnx", "test_local_up", "test_durable", "test_retention", "test_tiny",
)  # fmt: skip


def group(nodeid: str) -> str:
    """Tests of one group run in one process."""
    stem = PurePosixPath(nodeid.partition("::")[0]).stem
    return TOGETHER.get(stem, stem)


def rank(item: pytest.Item) -> int:
    """The place of an item's group."""
    name = group(item.nodeid)
    return FIRST.index(name) if name in FIRST else len(FIRST)


class Spread(LoadFileScheduling):
    """By group, in the order of the items."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)
