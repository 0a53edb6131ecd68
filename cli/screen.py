"""What people see while they wait: on stderr, and only where a terminal is."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.text import Text

from renderfarm_client import FarmStatus, Image, Job
from renderfarm_client.records import LoadingStep, WorkerStatus


def plain(*cells: str) -> list[Text]:
    """Cells of a table as they are: no markup, and nothing that a terminal would obey."""
    return [
        Text("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in cell))
        for cell in cells
    ]


class JobScreen:
    """One progress bar for each image of a job; remarks go through `say`."""

    def __init__(self, quiet: bool) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(), console=self._console,
            disable=quiet or not self._console.is_terminal,
        )  # fmt: skip
        self._tasks: dict[tuple[str, int], TaskID] = {}

    @property
    def seen(self) -> bool:
        """Whether somebody looks at it."""
        return not self._progress.disable

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._console.print(f"renderfarm: {text}", markup=False, highlight=False, soft_wrap=True)

    def show(self, job: Job) -> None:
        for image in job.images:
            if (job.id, image.index) not in self._tasks:
                name = f"image {image.index}, seed {image.seed}"
                self._tasks[job.id, image.index] = self._progress.add_task(name, state="")
            done = image.progress.steps if image.status == "succeeded" else image.progress.step
            self._progress.update(
                self._tasks[job.id, image.index], completed=done, total=image.progress.steps,
                state=_state(image, job.queue_position),
            )  # fmt: skip


def _state(image: Image, position: int | None) -> str:
    if image.status == "queued" and position is not None:
        return f"queued, {position} before it" if position else "queued, next"
    if image.status == "running":
        return f"step {image.progress.step} of {image.progress.steps}"
    return "cached" if image.cached else image.status


class FarmScreen:
    """The loading steps of a starting farm: live on a terminal, else a line for each change."""

    def __init__(self) -> None:
        self._console = Console()
        # no refresh thread: this process forks, and must do so from a single thread
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._spinner = Spinner("dots")
        self._seen: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._print(f"renderfarm: {text}")

    def show(self, status: FarmStatus | None, model: str) -> None:
        """How far the farm is; None: the API does not answer yet."""
        lines = describe(status, model)
        if self._console.is_terminal:
            self._live.start()
            self._spinner.update(text=Text("\n".join(lines)))
            self._live.update(self._spinner, refresh=True)
            return
        for line in lines:
            if line not in self._seen:
                self._seen.add(line)
                self.say(line)

    def done(self, text: str) -> None:
        self._live.stop()
        self.say(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def describe(status: FarmStatus | None, model: str) -> list[str]:
    """One line for each worker: the loading steps it has reached, or why it cannot load."""
    if status is None:
        return ["waiting for the API"]
    workers = status.model(model).workers
    if not workers:
        return [
            f"waiting for a worker ({status.reason})" if status.reason else "waiting for a worker"
        ]
    return [f"worker {number}: {_reached(worker)}" for number, worker in enumerate(workers, 1)]


def _reached(worker: WorkerStatus) -> str:
    if worker.error:
        return worker.error
    steps = (step for step in worker.steps if step.status not in ("waiting", "skipped"))
    return ", ".join(map(_step, steps)) or worker.state


def _step(step: LoadingStep) -> str:
    took = f" {step.seconds:.1f} s" if step.seconds is not None and step.status == "done" else ""
    return step.name + ("..." if step.status == "running" else took or f" {step.status}")
