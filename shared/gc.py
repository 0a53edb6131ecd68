"""Which stored pictures may go, and how they go while the farm runs.

Nothing that a remembered job refers to goes, whatever its age. A picture that goes is condemned in
the job store first: from then on no claim can publish it, so the look at what is in use that
follows misses nothing. Input pictures need no such word: shared/results/inputs.py says why.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from shared.results.inputs import Copy, Inputs
from shared.results.port import Kept, ResultStore
from shared.store.port import JobStore

GRACE_S = 86_400.0  # an upload is minutes old when it is complete, and published or lost

# incomplete: an upload that ended half way. superseded: another picture of the same fingerprint is
# older, so this one never answers. expired: older than the retention.
Reason = Literal["incomplete", "superseded", "expired"]


@dataclass(slots=True, frozen=True)
class Waste:
    kept: Kept
    reason: Reason


def find_waste(
    store: JobStore, results: ResultStore, *, now: float, retention_s: float | None
) -> list[Waste]:
    """What may go now. `now` in unix seconds; `retention_s` None keeps whole results for ever.

    Raises StoreUnavailable, ResultsUnavailable. O(objects + renders).
    """
    in_use = store.results_in_use()
    groups = groupby(results.walk(), key=lambda kept: kept.fingerprint)
    return [waste for _, group in groups for waste in _judge(list(group), in_use, now, retention_s)]


def sweep(store: JobStore, results: ResultStore, found: Iterable[Waste]) -> Iterator[Waste]:
    """Delete what is still nobody's; each that is gone. Raises as `find_waste` does."""
    doomed = [w for w in found if store.condemn(w.kept.fingerprint, w.kept.token)]
    in_use = store.results_in_use()
    for waste in doomed:
        if waste.kept.token not in in_use:
            results.delete(waste.kept)
            yield waste


def find_inputs(store: JobStore, inputs: Inputs) -> list[Copy]:
    """Copies of former days that no remembered render starts from. Raises as `find_waste` does."""
    old = list(inputs.walk())
    in_use = store.inputs_in_use() if old else set()
    return [copy for copy in old if copy.sha256 not in in_use]


def sweep_inputs(inputs: Inputs, found: Iterable[Copy]) -> Iterator[Copy]:
    for copy in found:
        inputs.delete(copy)
        yield copy


def purge(store: JobStore, results: ResultStore, job_id: str) -> None:
    """Delete the pictures that only this finished job has, while nobody new can be answered with them.

    May be repeated after a failure half way, so the job itself goes last. O(renders) where another
    render than the job's own made such a picture, which is rare. Raises JobNotFound, JobNotFinished,
    StoreUnavailable, ResultsUnavailable.
    """
    owned = store.disown(job_id)
    doomed = [o for o in owned if store.condemn(o.result.fingerprint, o.result.token)]
    own = [o.render_id for o in owned]
    in_use = store.results_in_use(but=own) if any(o.found for o in doomed) else set()
    for picture in doomed:
        if picture.result.token not in in_use:
            results.delete(picture.result)


def _judge(
    group: list[Kept], in_use: Collection[str], now: float, retention_s: float | None
) -> Iterator[Waste]:
    answer = next((kept for kept in group if kept.complete), None)  # what `find` gives
    for kept in group:
        age_s = now - kept.changed_at
        if kept.token in in_use:
            continue
        if not kept.complete:
            if age_s > GRACE_S:
                yield Waste(kept, "incomplete")
        elif retention_s is not None and age_s > retention_s:
            yield Waste(kept, "expired")
        elif kept is not answer and age_s > GRACE_S:
            yield Waste(kept, "superseded")
