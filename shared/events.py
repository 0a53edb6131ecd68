"""What is told of a job while it lives: names and values, pure.

Stored events have an id and live as long as their job; every history begins with `job.queued` and ends
with exactly one final event. Passing events are told once, to whoever listens. An image that goes back to
the queue because its worker was lost says nothing; its next `image.running` has a higher `attempt`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from shared.jobs import JOB_FINAL

QUEUED = "job.queued"
RUNNING = "job.running"
IMAGE_RUNNING = "image.running"
IMAGE_SUCCEEDED = "image.succeeded"
IMAGE_FAILED = "image.failed"
IMAGE_CANCELED = "image.canceled"
FINAL_EVENTS = frozenset(f"job.{status}" for status in JOB_FINAL)
POSITION = "job.position"  # {position, eta_s}
PROGRESS = "image.progress"  # {index, step, steps}
PREVIEW = "image.preview"  # {index, partial_image_index, b64_json}
PING = "ping"  # nothing happened for a while; not sent to clients as an event

_ID = re.compile(r"([1-9][0-9]{0,6})-([0-9]{1,17})")


@dataclass(slots=True, frozen=True)
class Event:
    """Something that happened to a job, and `number` how many had by then; `at` in unix seconds.

    The id says the number and the time, so that after the store went back in time another event of
    the same number is another id. `index` and `attempt` are the image's, None and 0 for the job's own.
    """

    number: int
    stamp: str  # seconds with their milliseconds, as stored
    type: str
    index: int | None = None
    attempt: int = 0

    @property
    def id(self) -> str:
        return f"{self.number}-{self.stamp.replace('.', '')}"

    @property
    def at(self) -> float:
        return float(self.stamp)

    @property
    def is_final(self) -> bool:
        return self.type in FINAL_EVENTS


@dataclass(slots=True, frozen=True)
class Passing:
    """Something that is told once and not remembered."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)


def event_line(at: float, type: str, index: int | None = None, attempt: int = 0) -> str:
    """What the store keeps of an event."""
    about = "" if index is None else f" {index} {attempt}"
    return f"{at:.3f} {type}{about}"


def read_event(number: int, line: str) -> Event:
    stamp, type, *about = line.split(" ")
    if not about:
        return Event(number, stamp, type)
    return Event(number, stamp, type, int(about[0]), int(about[1]))


def event_of(event_id: str | None) -> Event | None:
    """What an id says of its event: number and time."""
    known = split_id(event_id) if event_id else None
    return Event(known[0], known[1], "") if known else None


def split_id(event_id: str) -> tuple[int, str] | None:
    """(number, time) of an id; None: it is no id of an event."""
    match = _ID.fullmatch(event_id)
    return (int(match[1]), match[2]) if match else None
