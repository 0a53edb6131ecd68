"""A real farm to be hurt: each part a process of its own, started again whenever it is gone.

Redis and the result store stand behind wires (proxies) that can strike. The harness itself looks at
both directly, past the wires.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.children import Child, Program, stop_all
from deploy.embedded import EmbeddedRedis, free_port
from shared.keys import KEYS
from shared.results import open_results
from shared.results.port import ResultStore
from shared.settings import load_settings
from tests.chaos.http_wire import HttpWire
from tests.chaos.redis_wire import RedisWire
from tests.servers.rgw import Rgw
from tests.waiting import wait_until

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
READY_S = 90.0
TICK_S = 0.02
OWNERS = ("alice", "bob", "carol", "dave")
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


def key_of(owner: str) -> str:
    return f"key-of-{owner}"


class ChaosFarm:
    """`with ChaosFarm(folder) as farm:` two APIs, two chores, `workers` workers, all ready."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        apis: int = 2,
        chores: int = 2,
        binary: Path | None = None,
        rgw: Rgw | None = None,
        **env: str,
    ) -> None:
        self.folder = folder
        self.mark = f"chaos-{secrets.token_hex(8)}"  # every process of this farm carries it
        self.starts = 0
        self._counts = {"worker": workers, "api": apis, "chores": chores}
        self._engine = EmbeddedRedis(folder, binary=binary)
        self._rgw = rgw
        self._given = env
        self._parts: dict[str, Child] = {}
        self._ports: dict[str, int] = {}
        self._orders: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._http = httpx2.Client(timeout=30, limits=httpx2.Limits(max_keepalive_connections=20))
        # One thread starts everything: the kernel ends a part with the thread that started it.
        self._tender = threading.Thread(target=self._tend, name="tender")

    def __enter__(self) -> ChaosFarm:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "models.toml").write_text(MODELS)
        self._tender.start()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self.do(self._engine.start)
        self.wire = RedisWire(_port(self._engine.url))
        self._client = self.redis()
        self.storage = HttpWire(_port(self._rgw.http)) if self._rgw else None
        if self._rgw:
            self.bucket = f"farm-{secrets.token_hex(6)}"
            self._rgw.s3.Bucket(self.bucket).create()
        self._ports = {f"api-{k}": free_port() for k in range(self._counts["api"])}
        names = [f"{part}-{k}" for part, count in self._counts.items() for k in range(count)]
        self.do(lambda: [self._launch(name) for name in names])
        wait_until(self.ready, READY_S, f"for the farm in {self.folder}")

    def stop(self) -> None:
        """End everything in order; what was stopped (SIGSTOP) goes on first."""
        self._ending.set()
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.resume()
        if self._tender.is_alive():
            self._tender.join()
        self._http.close()
        for wire in (getattr(self, "wire", None), getattr(self, "storage", None)):
            if wire:
                wire.close()

    # -------------------------------------------------------------------------- its processes

    def do(self, act: Callable[[], T]) -> T:
        """Run it in the thread that starts processes."""
        done: Future[T] = Future()
        self._orders.put((act, done))
        return done.result(60)

    def _tend(self) -> None:
        while not self._ending.is_set():
            with suppress(queue.Empty):
                act, done = self._orders.get(timeout=TICK_S)
                try:
                    done.set_result(act())
                except BaseException as error:
                    done.set_exception(error)
            for name, child in tuple(self._parts.items()):
                if not child.alive:
                    self._launch(name)
        for part in ("api", "worker", "chores"):
            children = [child for name, child in self._parts.items() if name.startswith(part)]
            stop_all(children, 30.0, lambda: False)
        self._engine.stop()

    def _launch(self, name: str) -> None:
        part = name.partition("-")[0]
        argv = (sys.executable, "-P", "-m", "cli.main", part)
        log = self.folder / "logs" / f"{name}.log"
        self._parts[name] = Child(Program(name, argv, self._env(name), log), lambda _: None)
        self._parts[name].start()
        self.starts += 1

    def _env(self, name: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FARM_")}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "CHAOS": self.mark,
            **self.settings,
            "FARM_PORT": str(self._ports.get(name, 0)),
            "FARM_WORKER_NAME": name,
        }

    @property
    def settings(self) -> Mapping[str, str]:
        """What every part is told."""
        told = {
            "FARM_REDIS_URL": self._engine.url.replace(
                f":{_port(self._engine.url)}/", f":{self.wire.port}/"
            ),
            "FARM_MODELS_FILE": str(self.folder / "models.toml"),
            "FARM_MODEL_CACHE_DIR": str(self.folder.parent / "models"),
            "FARM_API_KEYS": " ".join(f"{owner}:{key_of(owner)}" for owner in OWNERS),
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

    def part(self, name: str) -> psutil.Process:
        """The process that is this part now, such as `worker-0`."""
        found: list[psutil.Process] = []

        def alive() -> bool:
            with suppress(psutil.NoSuchProcess, TypeError):
                found[:] = [psutil.Process(self._parts[name].pid)]
                return self._parts[name].alive
            return False

        wait_until(alive, what=name)
        return found[0]

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

    def name_of(self, process: psutil.Process) -> str:
        """The part that this process is; a keeper is `<worker>'s keeper`."""
        for name, child in self._parts.items():
            if child.pid == process.pid:
                return name
        return "keeper"

    def names(self, part: str) -> list[str]:
        return [f"{part}-{k}" for k in range(self._counts[part])]

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
        self.do(self._engine.start)

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

    # ----------------------------------------------------------------------------------- HTTP

    def url(self, api: int = 0) -> str:
        return f"http://127.0.0.1:{self._ports[f'api-{api}']}"

    def ready(self) -> bool:
        """All APIs answer, and every worker of now (not one that died lately) takes tickets."""
        return all(self.answers(api) for api in range(self._counts["api"])) and all(
            self._pid(name) == self._parts[name].pid for name in self.names("worker")
        )

    def _pid(self, worker: str) -> int | None:
        """The process that last said it was ready under this name."""
        with suppress(redis.RedisError):
            line = str(self._client.hget(KEYS["workers"], worker) or "")
            status = json.loads(line.split(" ", 2)[2]) if line else {}
            if status.get("state") in ("ready", "busy"):
                return int(status["pid"])
        return None

    def answers(self, api: int) -> bool:
        with suppress(httpx2.TransportError):
            return self._http.get(self.url(api) + "/healthz", timeout=1).status_code == 200
        return False

    def call(
        self, method: str, path: str, *, api: int = 0, owner: str = OWNERS[0], **options: Any
    ) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key_of(owner)}", **options.pop("headers", {})}
        return self._http.request(method, self.url(api) + path, headers=headers, **options)

    def insist(self, method: str, path: str, owner: str = OWNERS[0], **options: Any) -> Any:
        """The answer as soon as there is one below 500; asked of one API after the other."""
        answers: list[httpx2.Response] = []
        apis = itertools.cycle(range(self._counts["api"]))

        def answered() -> bool:
            with suppress(httpx2.TransportError):
                answers[:] = [self.call(method, path, api=next(apis), owner=owner, **options)]
                return answers[0].status_code < 500
            return False

        wait_until(answered, 30.0, f"for an answer to {method} {path}")
        assert answers[0].status_code in (200, 202), answers[0].text
        return answers[0].json()

    def submit(self, *, owner: str = OWNERS[0], **order: Any) -> dict[str, Any]:
        """A job that is taken at once, or as soon as the API is back."""
        body = {"prompt": "a lighthouse", **order}
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        return dict(self.insist("POST", "/jobs", owner, json=body, headers=headers))

    def job(self, job_id: str, owner: str = OWNERS[0]) -> dict[str, Any]:
        """The job as the API tells it, as soon as it tells."""
        return dict(self.insist("GET", f"/jobs/{job_id}", owner))

    def finished(
        self, job_id: str, owner: str = OWNERS[0], limit_s: float = 60.0
    ) -> dict[str, Any]:
        wait_until(lambda: self.job(job_id, owner)["done"], limit_s, f"for {job_id}")
        return self.job(job_id, owner)

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


def freeze(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)


def thaw(*processes: psutil.Process) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
