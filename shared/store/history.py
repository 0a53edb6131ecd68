"""What the memory store tells of jobs: their events, and who listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from shared.events import Event, event_line, read_event, split_id

Heard = Callable[[str, str], None]  # job, what is said on its channel

Post = Callable[[str, str, int | None], None]  # job, event, image


@dataclass(slots=True)
class History:
    """Not thread-safe: the store locks. Listeners are called in the thread that speaks."""

    now: Callable[[], float]
    lines: dict[str, list[str]] = field(default_factory=dict)  # job -> its events
    listeners: set[Heard] = field(default_factory=set)
    post: Post = field(default=lambda job, type, index: None)  # into the outbox

    def emit(self, job: str, type: str, index: int | None = None, attempt: int = 0) -> None:
        line = event_line(self.now(), type, index, attempt)
        lines = self.lines.setdefault(job, [])
        lines.append(line)
        self.tell(job, f"{len(lines)} {line}")
        self.post(job, type, index)

    def tell(self, job: str, message: str) -> None:
        for heard in tuple(self.listeners):
            heard(job, message)

    def all(self, job: str) -> list[Event]:
        lines = self.lines.get(job, [])
        return [read_event(number, line) for number, line in enumerate(lines, 1)]

    def later(self, job: str, after: str | None) -> list[Event] | None:
        """None: `after` is no event of this job."""
        events = self.all(job)
        if after is None:
            return events
        number = (split_id(after) or (0, ""))[0]
        known = 0 < number <= len(events) and events[number - 1].id == after
        return events[number:] if known else None

    def newest(self, job: str) -> str | None:
        events = self.all(job)
        return events[-1].id if events else None
