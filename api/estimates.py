"""What an order would cost and when it would be done, without taking it."""

from __future__ import annotations

from api.farm import Farm
from shared.answers import EstimateView, ForeseenView
from shared.errors import QueueFull, QuotaExceeded
from shared.eta import Crew, place_s
from shared.fingerprint import pure
from shared.store.queries import Forecast
from shared.store.values import Order, Place, Submission


def estimate(farm: Farm, submission: Submission) -> EstimateView:
    """Stores nothing. Raises QueueFull, QuotaExceeded, StoreUnavailable, ResultsUnavailable.

    An image that another job has ordered too is not cached, and costs nothing more. A worker looks
    for a stored picture before it renders, so this does too.
    """
    orders = submission.orders
    crew = Crew.of(orders[0].spec.pool, farm.workers())
    seen = farm.store.foresee(submission)
    _refuse_too_many(farm, submission, seen)
    cached = [way == "hit" for way in seen.ways]
    if submission.job.cache == "use":
        cached = [known or _is_stored(farm, o) for known, o in zip(cached, orders, strict=True)]
    missing = [
        o
        for o, way, known in zip(orders, seen.ways, cached, strict=True)
        if not known and way == "new"
    ]
    return EstimateView(
        input=submission.job.input,
        images=[
            ForeseenView(
                index=k, seed=o.spec.seed, fingerprint=pure(o.fingerprint), cached=cached[k]
            )
            for k, o in enumerate(orders)
        ],
        gpu_s=round(sum(o.cost_s for o in missing) * (seen.rate or 1.0), 3),
        queue_position=None if all(cached) else seen.first,
        eta_s=0.0 if all(cached) else _eta_s(seen, orders[-1], crew),
        workers_ready=crew.able,
    )


def _refuse_too_many(farm: Farm, submission: Submission, seen: Forecast) -> None:
    """As the submit script does, but for the allowance of orders a minute: this is none."""
    costs = [o.cost_s for o, way in zip(submission.orders, seen.ways, strict=True) if way == "new"]
    limits, more_s = submission.limits, sum(costs) * (seen.rate or 1.0)
    if not costs:
        return
    if seen.queued + len(costs) > farm.settings.max_queue:
        raise QueueFull
    if limits.max_queued and seen.mine + len(costs) > limits.max_queued:
        raise QuotaExceeded
    if limits.max_queued_gpu_s and seen.mine_gpu_s + more_s > limits.max_queued_gpu_s:
        raise QuotaExceeded


def _is_stored(farm: Farm, order: Order) -> bool:
    return farm.results.find(order.fingerprint) is not None


def _eta_s(seen: Forecast, order: Order, crew: Crew) -> float | None:
    if seen.last is None:
        return None
    return place_s(Place(order.spec.pool, seen.last, seen.ahead_s, order.cost_s, seen.rate), crew)
