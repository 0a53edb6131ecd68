"""Debian's Prometheus over one farm, for as long as a test needs it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from deploy.ports import free_port
from deploy.tether import tethered
from tests.waiting import wait_until

PROGRAMS = ("prometheus", "promtool")
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"


@dataclass(frozen=True)
class Prometheus:
    http: httpx2.Client

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self.http.get(f"/api/v1/{path}", params=parameters)
        said = answer.json()
        assert said["status"] == "success", (parameters, said)
        return said["data"]

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of everything that it gives now. An expression that is none fails."""
        result = self.ask("query", query=promql)["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]


@contextmanager
def prometheus(targets: Path, rules: Sequence[Path]) -> Iterator[Prometheus]:
    """Scrapes what the file names, and evaluates the rules, each second."""
    with tempfile.TemporaryDirectory(prefix="prometheus-") as folder:
        config, log = Path(folder) / "prometheus.yml", Path(folder) / "log"
        config.write_text(json.dumps(_config(targets, rules)))  # JSON is YAML
        url = f"http://127.0.0.1:{(port := free_port())}"
        argv = [
            "/usr/bin/env", "prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ]  # fmt: skip
        with log.open("wb") as out:
            process = subprocess.Popen(tethered(argv), stdout=out, stderr=out)
        try:
            with httpx2.Client(base_url=url, timeout=30) as http:
                wait_until(lambda: _ready(http), 30, str(log))
                yield Prometheus(http)
        finally:
            process.terminate()
            process.wait(20)


def _config(targets: Path, rules: Sequence[Path]) -> dict[str, Any]:
    farm = {"job_name": "renderfarm", "file_sd_configs": [{"files": [str(targets)]}]}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": [farm],
    }


def _ready(http: httpx2.Client) -> bool:
    try:
        return http.get("/-/ready").status_code == 200
    except httpx2.HTTPError:
        return False
