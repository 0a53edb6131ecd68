"""What a container probe sees of a worker while Redis is away."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from deploy.embedded import EmbeddedRedis
from shared.catalog import load_catalog
from shared.settings import load_settings
from shared.store import open_store
from tests.waiting import wait_until
from worker.main import PATIENCE_S, _heart


def test_a_worker_stays_alive_to_its_probe_while_redis_is_away(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    with EmbeddedRedis(tmp_path, appendfsync="everysec") as server:
        settings = load_settings({"FARM_REDIS_URL": server.url, "FARM_LIVENESS_FILE": str(file)})
        store = open_store(settings, patience_s=PATIENCE_S)
        heart = _heart(settings, store, load_catalog(None, "tiny").default, "w", "cpu")
        heart.start()
        assert server.pid
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for _ in range(2):  # the first may have been under way
                touched = file.stat().st_mtime_ns
                wait_until(lambda then=touched: file.stat().st_mtime_ns > then)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        heart.stop()
