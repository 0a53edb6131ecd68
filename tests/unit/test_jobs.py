"""States, moves, and a job's status read off its images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.jobs import (
    FINAL,
    JOB_FINAL,
    MOVES,
    OPEN,
    SEEDS,
    IllegalMove,
    JobImage,
    JobStatus,
    Render,
    RenderState,
    image_seed,
    job_status,
    move,
)
from tests.orders import POOL, spec

states = st.sampled_from(RenderState)
images = st.lists(
    st.tuples(states, st.booleans(), st.sampled_from([None, "canceled", "expired"])),
    min_size=1,
    max_size=6,
)


def image(state: str, cached: bool = False, dropped: str | None = None) -> JobImage:
    render = Render(
        id="r", fingerprint="f", pool=POOL, spec=spec(), state=RenderState(state), queued_at=0
    )
    return JobImage.model_validate(
        {"index": 0, "render": render, "cached": cached, "dropped": dropped}
    )


@given(states, states)
def test_only_the_moves_of_the_table_are_made(old: RenderState, new: RenderState) -> None:
    if new in MOVES[old]:
        assert move(old, new) is new
    else:
        with pytest.raises(IllegalMove, match=f"{old} to {new}"):
            move(old, new)


def test_nothing_follows_a_final_state_and_everything_open_can_end() -> None:
    assert all(not MOVES[state] for state in FINAL)
    assert all(MOVES[state] & FINAL for state in OPEN)


@given(images)
def test_a_job_is_final_exactly_when_all_its_images_are(
    kinds: list[tuple[RenderState, bool, str | None]],
) -> None:
    seen = tuple(image(*kind) for kind in kinds)

    final = job_status(seen) in JOB_FINAL

    assert final == all(i.status in FINAL for i in seen)


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([("queued", False, None), ("queued", False, None)], JobStatus.queued),
        ([("succeeded", True, None), ("queued", False, None)], JobStatus.queued),
        ([("succeeded", False, None), ("queued", False, None)], JobStatus.running),
        ([("failed", False, None), ("running", False, None)], JobStatus.running),
        ([("storing", False, None)], JobStatus.running),
        ([("failed", False, None), ("canceled", False, None)], JobStatus.canceled),
        ([("running", False, "canceled")], JobStatus.canceled),
        ([("failed", False, None), ("queued", False, "expired")], JobStatus.failed),
        ([("succeeded", False, None), ("canceled", False, "expired")], JobStatus.expired),
        ([("succeeded", True, None), ("succeeded", False, None)], JobStatus.succeeded),
    ],
)
def test_the_first_status_that_fits(
    kinds: list[tuple[str, bool, str | None]], status: JobStatus
) -> None:
    assert job_status(tuple(image(*kind) for kind in kinds)) is status


@given(st.integers(0, SEEDS - 1), st.integers(0, 99))
def test_image_seeds_wrap_and_never_leave_32_bits(seed: int, index: int) -> None:
    assert 0 <= image_seed(seed, index) < SEEDS
    assert image_seed(seed, index + 1) == image_seed(image_seed(seed, index), 1)
