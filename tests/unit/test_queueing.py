"""The simulated queue against what is known of queues, and what failures do to it."""

from __future__ import annotations

import math
from random import Random

import pytest

from shared.queueing import Crew, Load, percentile, waits

SERVICE_S = 10.0


def load(busy_workers: float, image_s: tuple[float, ...], images: int = 1) -> Load:
    mean_s = sum(image_s) / len(image_s)
    return Load(busy_workers * 3600 / mean_s / images, (images,), image_s)


def exponential(count: int = 4000) -> tuple[float, ...]:
    """Equally likely quantiles of an exponential distribution, scaled to the mean exactly."""
    drawn = [-math.log(1 - (k + 0.5) / count) for k in range(count)]
    return tuple(SERVICE_S * each * count / sum(drawn) for each in drawn)


def erlang_c(workers: int, busy: float) -> float:
    """The share of those that must wait. Source: A. K. Erlang, 1917."""
    blocked = 1.0
    for count in range(1, workers + 1):  # Erlang B by its recursion
        blocked = busy * blocked / (count + busy * blocked)
    return workers * blocked / (workers - busy * (1 - blocked))


@pytest.mark.parametrize(("workers", "busy"), [(1, 0.7), (3, 2.4), (12, 10.2)])
def test_random_service_waits_as_erlang_says(workers: int, busy: float) -> None:
    found = waits(load(busy, exponential()), Crew(workers), images=40_000)

    must_wait, leaves_per_s = erlang_c(workers, busy), (workers - busy) / SERVICE_S
    assert found.mean_s == pytest.approx(must_wait / leaves_per_s, rel=0.08)
    assert found.p95_s == pytest.approx(math.log(must_wait / 0.05) / leaves_per_s, rel=0.08)
    assert found.busy == pytest.approx(busy / workers, rel=0.02)


@pytest.mark.parametrize("busy", [0.5, 0.8])
def test_equal_images_on_one_worker_wait_half_as_long(busy: float) -> None:
    """M/D/1. Source: Pollaczek and Khinchine."""
    found = waits(load(busy, (SERVICE_S,)), Crew(1), images=20_000)

    assert found.mean_s == pytest.approx(busy * SERVICE_S / (2 * (1 - busy)), rel=0.05)


def test_images_that_come_together_wait_for_each_other() -> None:
    """M^[X]/D/1: the first image of an order waits as in M/D/1 with orders; the k-th k - 1 images more."""
    found = waits(load(0.6, (SERVICE_S,), images=4), Crew(1), images=20_000)

    first_s = 0.6 * 4 * SERVICE_S / (2 * (1 - 0.6))
    assert found.mean_s == pytest.approx(first_s + 1.5 * SERVICE_S, rel=0.05)


def test_a_mix_of_short_and_long_waits_longer_than_equal_images() -> None:
    """M/G/1: the mean wait grows with the second moment. Source: Pollaczek and Khinchine."""
    found = waits(load(0.7, (2.0, 2.0, 2.0, 34.0)), Crew(1), images=20_000)

    second_moment = (3 * 2.0**2 + 34.0**2) / 4
    assert found.mean_s == pytest.approx(0.7 / 10 * second_moment / (2 * 0.3), rel=0.08)


def test_the_error_says_how_far_other_random_numbers_lead() -> None:
    said = waits(load(2.4, exponential()), Crew(3), images=1500)
    others = [waits(load(2.4, exponential()), Crew(3), images=1500, seed=k) for k in range(2, 12)]

    assert said.p95_error_s > 0
    far = [abs(said.p95_s - other.p95_s) / said.p95_error_s for other in others]
    assert sorted(far)[5] < 3, "the median of ten is within three standard errors"


def test_the_same_seed_gives_the_same_waits() -> None:
    asked = load(1.5, (5.0, 20.0)), Crew(2, 0.9)

    assert waits(*asked, images=2000) == waits(*asked, images=2000)
    assert waits(*asked, images=2000) != waits(*asked, images=2000, seed=2)


def test_workers_that_fail_make_waits_longer_and_lose_no_image() -> None:
    steady = waits(load(2.4, (SERVICE_S,)), Crew(4), images=5_000)
    failing = waits(load(2.4, (SERVICE_S,)), Crew(4, up_share=0.9, away_s=120), images=5_000)

    assert failing.p95_s > 2 * steady.p95_s
    assert failing.busy > steady.busy, "what was begun and lost is rendered again"


def test_a_render_that_was_lost_takes_all_of_its_time_again() -> None:
    """With failures at rate f an image of S seconds takes (exp(f S) - 1) / f in all: preemptive repeat."""
    crew = Crew(2, up_share=0.8, away_s=50.0)
    asked = load(0.6, (100.0,))

    found = waits(asked, crew, images=8_000)

    takes_s = (math.exp(100.0 / crew.up_s) - 1) * crew.up_s
    assert takes_s > 125
    assert found.busy == pytest.approx(asked.images_per_second * takes_s / 2, rel=0.02)


def test_workers_that_fail_while_idle_are_away_for_their_share() -> None:
    """With nobody else in the queue, an image waits only if it finds the one worker away."""
    rare = Load(jobs_per_hour=1.0, images=(1,), image_s=(0.001,))

    found = waits(rare, Crew(1, up_share=0.8, away_s=100), images=8_000)

    assert found.mean_s == pytest.approx(0.2 * 100, rel=0.1)


def test_orders_from_the_cache_never_reach_the_queue() -> None:
    asked = load(2.0, (SERVICE_S,))
    cached = Load(2 * asked.jobs_per_hour, asked.images, asked.image_s, cached_share=0.5)

    assert waits(cached, Crew(3), images=2000) == waits(asked, Crew(3), images=2000)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = list(range(1, 101))
    Random(1).shuffle(values)

    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.5) == 0.0
