"""One thread that starts the processes of a farm, and starts again whichever is gone.

One thread, because the kernel ends a part with the thread that started it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

import psutil

from deploy.children import Child, Program, stop_all
from tests.waiting import wait_until

T = TypeVar("T")
TICK_S = 0.02
GRACE_S = 30.0


class Tender:
    """`start` a program under its name; `stop` ends all, those whose name begins with `order` first."""

    def __init__(self, order: tuple[str, ...]) -> None:
        self.starts = 0
        self._order = order
        self._children: dict[str, Child] = {}
        self._tasks: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tender")
        self._thread.start()

    def do(self, act: Callable[[], T]) -> T:
        """Run it in the thread that starts processes."""
        done: Future[T] = Future()
        self._tasks.put((act, done))
        return done.result(60)

    def start(self, program: Program) -> None:
        self.do(lambda: self._launch(program))

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()

    def pid(self, name: str) -> int | None:
        return self._children[name].pid

    def name(self, pid: int) -> str | None:
        """The part that this process is now."""
        return next((name for name, child in self._children.items() if child.pid == pid), None)

    def process(self, name: str) -> psutil.Process:
        """The process that is this part now; waits for the next one where it is gone."""
        found: list[psutil.Process] = []

        def alive() -> bool:
            with suppress(psutil.NoSuchProcess, TypeError):
                found[:] = [psutil.Process(self.pid(name))]
                return self._children[name].alive
            return False

        wait_until(alive, what=name)
        return found[0]

    def _run(self) -> None:
        while not self._ending.is_set():
            with suppress(queue.Empty):
                _fulfil(*self._tasks.get(timeout=TICK_S))
            for child in tuple(self._children.values()):
                if not child.alive:
                    self._launch(child.program)  # a new Child: an old one's pauses grow
        for kind in self._order:
            children = [c for name, c in self._children.items() if name.startswith(kind)]
            stop_all(children, GRACE_S, lambda: False)

    def _launch(self, program: Program) -> None:
        self._children[program.name] = child = Child(program, lambda _: None)
        child.start()
        self.starts += 1


def _fulfil(act: Callable[[], Any], done: Future[Any]) -> None:
    try:
        done.set_result(act())
    except BaseException as error:
        done.set_exception(error)
