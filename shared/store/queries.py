"""What can be asked about many jobs at once, and the answers. Pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ulid import ULID

from shared.jobs import Job, JobStatus, StoredResult

LOOK_MOST = 200  # entries of the index that one page looks at, whatever it is asked for


@dataclass(slots=True, frozen=True)
class JobQuery:
    """A page of jobs in the order in which they came. `owner` None: everybody's.

    `since` (inclusive) and `until` (exclusive) bound when a job came, unix seconds. `after` is the
    id of the last job seen. An empty `statuses` admits all.
    """

    owner: str | None
    limit: int = 20
    after: str | None = None
    newest_first: bool = True
    since: float | None = None
    until: float | None = None
    statuses: frozenset[JobStatus] = frozenset()
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Every job of the index is wanted."""
        return not (self.statuses or self.model or self.metadata)

    def admits(self, job: Job) -> bool:
        return (
            (not self.statuses or job.status in self.statuses)
            and self.model in (None, job.input.get("model"))
            and self.metadata.items() <= job.metadata.items()
        )


@dataclass(slots=True, frozen=True)
class JobPage:
    """`last`: the id of the last job looked at, which the next page begins after.

    `has_more`: the index goes on behind it; what follows may not be what was asked for.
    """

    jobs: tuple[Job, ...]
    last: str | None
    has_more: bool


@dataclass(slots=True, frozen=True)
class Owned:
    """A picture that only one job has. `found`: another render made it, and may still be known."""

    render_id: str
    result: StoredResult
    found: bool


Way = Literal["hit", "attached", "new"]


@dataclass(slots=True, frozen=True)
class Forecast:
    """What an order would meet if it came now.

    `ways`: how each image would be answered. `first` and `last`: the places of its images in the
    queue, None where none waits. `ahead_s`: predicted device seconds of what is before the last.
    """

    ways: tuple[Way, ...]
    first: int | None
    last: int | None
    ahead_s: float
    rate: float | None  # measured / predicted device seconds
    queued: int  # renders of anybody
    mine: int  # of them on the owner's account
    mine_gpu_s: float  # predicted, by the measured rate


@dataclass(slots=True, frozen=True)
class LaneLoad:
    """One pool's renders of one priority. `queued` ones may be in the pause after a fault.

    `work_s`: device seconds of those, exact, by the model entry's first guess.
    """

    priority: str
    queued: int = 0
    work_s: float = 0.0
    running: int = 0
    storing: int = 0


@dataclass(slots=True, frozen=True)
class PoolLoad:
    """One pool's renders. `work_s`: predicted device seconds of what is pending."""

    pool: str
    pending: int
    delayed: int  # in the pause after a fault
    running: int
    storing: int
    oldest_at: float | None  # when the longest waiting came, unix seconds
    work_s: float
    rate: float | None  # measured / predicted device seconds
    lanes: tuple[LaneLoad, ...] = ()  # the highest priority first

    @property
    def backlog_s(self) -> float:
        """Predicted device seconds of all that is queued, by the rate that was measured of late."""
        return sum(lane.work_s for lane in self.lanes) * (self.rate or 1.0)


@dataclass(slots=True, frozen=True)
class OwnerLoad:
    """The renders on one owner's account: a shared one is on that of whose turn comes first."""

    owner: str
    queued: int
    running: int  # or being stored


@dataclass(slots=True, frozen=True)
class Backlog:
    pools: tuple[PoolLoad, ...]
    owners: tuple[OwnerLoad, ...]


class Gathering:
    """Fills a page from stretches of the index until it is full or has looked at enough."""

    def __init__(self, query: JobQuery) -> None:
        self._query = query
        self._jobs: list[Job] = []
        self._left = LOOK_MOST
        self.last = query.after
        self._more = True

    @property
    def wants(self) -> int:
        """How many entries to bring next; 0: the page is done."""
        missing = self._query.limit - len(self._jobs)
        if not (self._more and missing):
            return 0
        return min(self._left, missing if self._query.is_plain else 50)

    def add(self, stretch: Iterable[tuple[str, Job | None]], *, more: bool) -> None:
        """The next entries of the index; None for a job that is no longer remembered."""
        entries = list(stretch)
        self._more, self._left = more, self._left - len(entries)
        for number, (job_id, job) in enumerate(entries, 1):
            self.last = job_id
            if job is not None and self._query.admits(job):
                self._jobs.append(job)
            if len(self._jobs) == self._query.limit:
                self._more = more or number < len(entries)
                return

    def page(self) -> JobPage:
        return JobPage(tuple(self._jobs), self.last, self._more)


def came_at(job_id: str) -> float:
    """About when a job came, as its id tells: for a cursor whose job is gone."""
    return ULID.from_str(job_id.removeprefix("job_")).timestamp
