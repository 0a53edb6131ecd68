"""A real farm to be hurt: each part a process of its own, started again whenever it is gone.

Redis and the result store stand behind wires (proxies) that can strike. The harness itself looks at
both directly, past the wires.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.children import Program
from deploy.embedded import EmbeddedRedis
from deploy.ports import free_port
from shared.errors import StoreUnavailable
from shared.keys import KEYS
from shared.results import open_results
from shared.results.port import ResultStore
from shared.settings import load_settings
from shared.store.redis_store import RedisJobStore
from shared.store.scripts import StoreConfig
from shared.tickets import ticket_template
from tests.chaos.door import OWNERS, Door, key_of
from tests.chaos.http_wire import HttpWire
from tests.chaos.redis_wire import RedisWire
from tests.chaos.tender import Tender
from tests.servers.clocks import Clock
from tests.servers.engines import ENGINES, engine_binary
from tests.servers.rgw import Rgw
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
READY_S = 90.0
MODELS = """\
default = "tiny"
[models.tiny]
source = "tiny:size=small"
precision = "fp32"
max_sequence_length = 77
steps = 4
guidance_scale = 4.5
width = 64
height = 64
min_side_px = 16
step_seconds = 0.25
"""


class ChaosFarm(Door):
    """`with ChaosFarm(folder) as farm:` two APIs, two chores, `workers` workers, all ready.

    `env` adds to the settings of every part. Pictures go to `rgw`, else into a folder. With `clocks`
    each kind of part, and Redis, goes by a clock that can be set.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        apis: int = 2,
        chores: int = 2,
        binary: Path | None = None,
        rgw: Rgw | None = None,
        clocks: bool = False,
        **env: str,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.mark = f"chaos-{secrets.token_hex(8)}"  # every process of this farm carries it
        self._counts = {"worker": workers, "api": apis, "chores": chores}
        kinds = ("redis", *self._counts) if clocks else ()
        self.clocks = {kind: Clock(folder / "clocks" / kind) for kind in kinds}
        if clocks:
            binary = self.clocks["redis"].program(binary or engine_binary(ENGINES[0]))
        self._engine = EmbeddedRedis(folder, binary=binary)
        self._rgw = rgw
        self._given = env

    def __enter__(self) -> ChaosFarm:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "models.toml").write_text(MODELS)
        self.tender = Tender(("api", "worker", "chores"))
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self.tender.do(self._engine.start)
        self.wire = RedisWire(_port(self._engine.url))
        self.storage = HttpWire(_port(self._rgw.http)) if self._rgw else None
        self.store = RedisJobStore(self.redis(), StoreConfig(ticket_template()))
        self.bucket = f"farm-{secrets.token_hex(6)}"
        if self._rgw:
            self._rgw.s3.Bucket(self.bucket).create()
        self.ports = [free_port() for _ in self.names("api")]
        for name in (name for part in self._counts for name in self.names(part)):
            self.tender.start(self._program(name))
        wait_until(self.ready, READY_S, f"for the farm in {self.folder}")

    def stop(self) -> None:
        """End everything in order; what was stopped (SIGSTOP) goes on first."""
        thaw(*self.family())
        self.tender.stop()
        self._engine.stop()
        self.close()
        for wire in (getattr(self, "wire", None), getattr(self, "storage", None)):
            if wire:
                wire.close()

    def _program(self, name: str) -> Program:
        part, _, number = name.partition("-")
        argv = (sys.executable, "-P", "-m", "cli.main", part)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
        own = {"FARM_WORKER_NAME": name}
        if part == "api":
            own["FARM_PORT"] = str(self.ports[int(number)])
        env = {
            **inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CHAOS": self.mark,
            **self.settings, **own, **(self.clocks[part].env if self.clocks else {}),
        }  # fmt: skip
        return Program(name, argv, env, self.folder / "logs" / f"{name}.log")

    @property
    def settings(self) -> dict[str, str]:
        """What every part is told."""
        told = {
            "FARM_REDIS_URL": _with_port(self._engine.url, self.wire.port),
            "FARM_MODELS_FILE": str(self.folder / "models.toml"),
            "FARM_MODEL_CACHE_DIR": str(self.folder.parent / "models"),
            "FARM_API_KEYS": " ".join(f"{owner}:{key_of(owner)}" for owner in OWNERS),
            "FARM_SUBMITS_PER_MIN": "0",  # the load is bounded by its own plan
            "FARM_MAX_QUEUED": "0",
            "FARM_DEVICE": "cpu",
            "FARM_LEASE_S": "2",
            "FARM_DRAIN_S": "5",
            # Renders whose worker is killed are innocent here; none may be taken for poison.
            "FARM_MAX_LOSSES": "50",
            "FARM_RESULTS_DIR": str(self.folder / "results"),
        }
        if self._rgw and self.storage:
            told |= {
                "FARM_S3_BUCKET": self.bucket,
                "FARM_S3_ENDPOINT": f"http://127.0.0.1:{self.storage.port}",
                "FARM_S3_ACCESS_KEY": self._rgw.access_key,
                "FARM_S3_SECRET_KEY": self._rgw.secret_key,
            }
        return told | self._given

    # -------------------------------------------------------------------------- its processes

    @property
    def starts(self) -> int:
        return self.tender.starts

    def names(self, part: str) -> list[str]:
        return [f"{part}-{k}" for k in range(self._counts[part])]

    def part(self, name: str) -> psutil.Process:
        """The process that is this part now, such as `worker-0`; waits for it."""
        return self.tender.process(name)

    def name_of(self, process: psutil.Process) -> str:
        """The part that this process is; what is none is a keeper."""
        return self.tender.name(process.pid) or "keeper"

    def keeper(self, worker: str) -> psutil.Process:
        """The keeper beside this worker; waits for it."""
        found: list[psutil.Process] = []

        def there() -> bool:
            with suppress(psutil.NoSuchProcess):
                found[:] = [
                    p for p in self.part(worker).children() if "worker.keeper" in p.cmdline()
                ]
            return len(found) == 1

        wait_until(there, READY_S, f"for the keeper of {worker}")
        return found[0]

    def holder(self) -> psutil.Process:
        """A worker that holds a render, and whose keeper has begun to renew it; waits for one."""
        client, found = self.redis(), []

        def holds() -> bool:
            found[:] = [n for n in self.names("worker") if client.exists(KEYS["slot"] + n)]
            return bool(found)

        wait_until(holds, 30.0, "for a worker at work")
        renewed = self.wire.seen["renew"]
        wait_until(lambda: self.wire.seen["renew"] > renewed, 30.0, "for its keeper")
        return self.part(found[0])

    def ready(self) -> bool:
        """All APIs answer, and every worker of now (not one that died lately) takes tickets."""
        try:
            said = {w.name: w.pid for w in self.store.workers() if w.state in ("ready", "busy")}
        except StoreUnavailable:
            return False
        return all(map(self.answers, range(len(self.ports)))) and all(
            said.get(name) == self.tender.pid(name) for name in self.names("worker")
        )

    def family(self) -> list[psutil.Process]:
        """Every process that this farm or a part of it ever started and that lives, orphans too."""
        return [each for each in psutil.process_iter() if self._ours(each)]

    def _ours(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error, OSError):
            marked = process.environ().get("CHAOS") == self.mark
            return marked and process.status() != psutil.STATUS_ZOMBIE
        return False

    # ------------------------------------------------------------------------- what it stands on

    def redis(self) -> redis.Redis:
        """A client of ours, past the wire; it does not wait for a server that is away."""
        impatient = Retry(NoBackoff(), 0)
        return redis.Redis.from_url(
            self._engine.url, decode_responses=True, socket_timeout=2.0, retry=impatient
        )

    @property
    def redis_process(self) -> psutil.Process:
        return psutil.Process(self._engine.pid)

    def revive_redis(self) -> None:
        """Start the server again after it was killed, on the same file and port."""
        wait_until(lambda: not self._engine.alive, what="for the end of Redis")
        self.tender.do(self._engine.start)

    def results(self) -> ResultStore:
        """The result store as the farm has it, but past the wire."""
        told = dict(self.settings)
        if self._rgw:
            told["FARM_S3_ENDPOINT"] = self._rgw.http
        return open_results(load_settings(told))

    def stored(self) -> dict[str, int]:
        """Sizes of all objects of the result store, by name."""
        if self._rgw:
            return {o.key: o.size for o in self._rgw.s3.Bucket(self.bucket).objects.all()}
        root = Path(self.settings["FARM_RESULTS_DIR"])
        files = (path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}

    def told(self, part: str = "") -> list[dict[str, Any]]:
        """The events that parts whose name starts so have logged."""
        texts = [path.read_text() for path in (self.folder / "logs").glob(f"{part}*.log")]
        found = []
        for line in "".join(texts).splitlines():
            with suppress(ValueError):  # a killed process may leave a torn line
                found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict) and "action" in line]


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].split("/")[0])


def _with_port(url: str, port: int) -> str:
    return url.replace(f":{_port(url)}/", f":{port}/")


def freeze(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)


def thaw(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
