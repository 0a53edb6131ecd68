"""`renderfarm up`: a whole farm on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Self

import click

from cli.hints import base_url, how_to_use, program
from cli.screen import FarmScreen
from cli.settings import overridden
from deploy.children import Report
from deploy.local import LocalFarm, Server, bindable
from deploy.lock import lock
from deploy.slots import choose_slots, find_gpus
from renderfarm_client import Client, FarmStatus, RenderFarmError
from shared.catalog import load_catalog
from shared.errors import FarmError
from shared.models import ModelEntry
from shared.settings import Settings, load_settings

TICK_S = 0.1
TICKS_PER_LOOK = 3  # how often /status is read while the farm starts


@click.command()
@click.option("--model", help="Model to serve.  [default: FARM_DEFAULT_MODEL, else tiny]")
@click.option(
    "--workers", type=click.IntRange(1), help="[default: one for each GPU, or one on the CPU]"
)
@click.option("--gpus", help="all, none, or ids such as 0,1.  [default: all there are]")
@click.option("--host", help="Address of the API.  [default: FARM_HOST, else 127.0.0.1]")
@click.option(
    "--port", type=int, help="Port of the API, 0: a free one.  [default: FARM_PORT, else 8000]"
)
@click.option("--data-dir", help="Queue, pictures, logs.  [default: FARM_DATA_DIR, else data]")
@click.option(
    "--redis-url", help="Use this Redis instead of an own one.  [default: FARM_REDIS_URL]"
)
def up(
    model: str | None, workers: int | None, gpus: str | None, **options: str | int | None
) -> None:
    """Run a whole farm on this machine.

    Starts Redis, the API, chores and workers. What dies is started again. Jobs and pictures stay in the data folder for the next start.
    Ctrl-C lets workers finish; a second Ctrl-C does not wait.

    \b
    Example:
      renderfarm up
      renderfarm up --model sd3.5-medium --gpus 0,1 --port 8123
    """
    settings = overridden(load_settings(), **options)
    catalog = load_catalog(settings.models_file, settings.default_model)
    entry = catalog.find(model) if model else catalog.default
    slots = choose_slots(gpus, workers, settings.device, find_gpus())
    port = bindable(settings.host, settings.port)
    settings = overridden(settings, port=port, default_model=entry.id)

    with lock(settings.data_dir), Interrupts() as interrupts, FarmScreen() as screen:
        _greet(entry, len(slots), screen.say)
        farm = LocalFarm(settings, entry.id, slots, _redis(settings), screen.say)
        run(farm, settings, entry, screen, interrupts)


def run(
    farm: LocalFarm,
    settings: Settings,
    entry: ModelEntry,
    screen: FarmScreen,
    interrupts: Interrupts,
) -> None:
    """From start to stop. However it ends, no process stays behind."""
    try:
        farm.start()
        _warn(settings, screen.say)
        with Client(base_url(settings), timeout_s=2.0, patience_s=0.0) as client:
            if wait_ready(farm, client, entry.id, screen, interrupts):
                screen.done(how_to_use(settings, entry))
        while not interrupts.heard:
            farm.tick()
            time.sleep(TICK_S)
    finally:
        screen.say("stopping: workers finish what they hold; Ctrl-C again to end at once")
        first = min(interrupts.heard, 1)
        farm.stop(hurry=lambda: interrupts.heard > first)
        screen.say("stopped")


def wait_ready(
    farm: LocalFarm, client: Client, model: str, screen: FarmScreen, interrupts: Interrupts
) -> bool:
    """Tend the farm until a worker has loaded the model; False when interrupted before."""
    ticks = 0
    while not interrupts.heard:
        farm.tick()
        if ticks % TICKS_PER_LOOK == 0:
            status = _look(client)
            screen.show(status, model)
            if status and status.ready and status.model(model).ready:
                return True
        ticks += 1
        time.sleep(TICK_S)
    return False


class Interrupts:
    """Counts Ctrl-C, SIGTERM and a closed terminal instead of dying of them."""

    def __init__(self) -> None:
        self.heard = 0

    def __enter__(self) -> Self:
        signal.signal(signal.SIGINT, self._hear)
        signal.signal(signal.SIGTERM, self._hear)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.heard += 1


def _greet(entry: ModelEntry, workers: int, say: Report) -> None:
    say(f"starting {workers} worker{'s' * (workers != 1)} for model {entry.id}: {entry.title}")
    if entry.random_weights:
        say(
            f"{entry.id} has random weights, so every picture is noise. "
            f"For a real one: {program()} up --model sd3.5-medium"
        )


def _redis(settings: Settings) -> Server | None:
    if "redis_url" in settings.model_fields_set:
        return None
    from deploy.embedded import EmbeddedRedis

    return EmbeddedRedis(settings.data_dir)


def _warn(settings: Settings, say: Report) -> None:
    """Where the operator brought a Redis of his own, what is wrong with it."""
    if "redis_url" not in settings.model_fields_set:
        return
    from shared.store import open_store

    with suppress(FarmError):  # one that is away is seen soon enough
        for fault in open_store(settings).faults():
            say(f"WARNING: {fault.reason}; {fault.advice}")


def _look(client: Client) -> FarmStatus | None:
    with suppress(RenderFarmError):
        return client.status()
    return None
