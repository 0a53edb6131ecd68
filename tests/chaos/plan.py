"""What will happen in a run: orders and faults with their moments, all drawn from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Literal

from tests.chaos.door import OWNERS

# Every script in the life of a job, a lease or a process: a kill and a cut before and after each.
STRUCK = (
    "submit", "get", "cancel", "claim", "renew", "storing", "close", "release",
    "adopt", "reap", "expire", "reconcile", "heartbeat",
    "claim_deliveries", "freeze_delivery", "settle_delivery",
)  # fmt: skip
STRIKES = tuple(
    f"{deed} {when} {script}"
    for script in STRUCK
    for when in ("before", "after")
    for deed in ("kill", "cut")
)
KILLS = ("kill worker",) * 14 + ("kill keeper",) * 5 + ("kill api",) * 6 + ("kill chores",) * 4
HURTS = (
    ("zombie",) * 3
    + ("freeze worker", "terminate worker", "terminate api", "terminate chores")
    + ("redis killed",) * 3
    + ("redis frozen", "redis full", "cut all", "cut all", "half open", "half open", "client kill")
)
TROUBLES = ("s3 cut", "s3 deaf", "s3 error", "s3 hang", "s3 reset") * 2
CLOCKS = ("clock redis", "clock redis", "clock worker", "clock api", "clock chores")
# What can also be done to workers and broker of plain Celery, for a comparison.
COMMON = (
    "kill worker", "kill worker", "kill worker", "zombie", "freeze worker", "terminate worker",
    "redis killed", "redis frozen", "cut all", "cut all", "half open", "client kill",
)  # fmt: skip
EVERY_S = 2.4  # between two faults
ORDERS_PER_S = 2.5


@dataclass(slots=True, frozen=True)
class Fault:
    at_s: float
    kind: str
    draw: float  # 0..1: which part, how long


@dataclass(slots=True, frozen=True)
class PlannedOrder:
    """`retried`: sent again with its Idempotency-Key until it is taken; else sent once."""

    at_s: float
    number: int
    kind: Literal["single", "batch", "long", "duplicate", "canceled", "deadline", "bypass"]
    owner: str
    body: dict[str, Any]
    retried: bool
    cancel_after_s: float | None = None


@dataclass(slots=True, frozen=True)
class Plan:
    seed: int
    seconds: float
    orders: tuple[PlannedOrder, ...]
    faults: tuple[Fault, ...]


def deck(*, s3: bool, clocks: bool = False) -> tuple[str, ...]:
    """Every kind of fault, the likelier ones more than once."""
    return (*STRIKES, *KILLS, *HURTS, *(TROUBLES if s3 else ()), *(CLOCKS if clocks else ()))


def draw(seed: int, seconds: float, kinds: tuple[str, ...], every_s: float = EVERY_S) -> Plan:
    """The same arguments give the same plan."""
    return Plan(
        seed,
        seconds,
        tuple(_orders(random.Random(f"orders {seed}"), seconds)),
        tuple(_faults(random.Random(f"faults {seed}"), seconds, kinds, every_s)),
    )


def _faults(
    dice: random.Random, seconds: float, kinds: tuple[str, ...], every_s: float
) -> list[Fault]:
    """Dealt from a deck, so that a long run meets every kind, and shuffled each time."""
    cards: list[str] = []
    faults = []
    at_s = 1.0
    while at_s < seconds:
        if not cards:
            cards = list(kinds)
            dice.shuffle(cards)
        faults.append(Fault(round(at_s, 3), cards.pop(), dice.random()))
        at_s += every_s * dice.uniform(0.4, 1.6)
    return faults


def _orders(dice: random.Random, seconds: float) -> list[PlannedOrder]:
    orders: list[PlannedOrder] = []
    at_s = 0.0
    while at_s < seconds:
        orders.append(_order(dice, at_s, orders))
        at_s += dice.expovariate(ORDERS_PER_S)
    return orders


def _order(dice: random.Random, at_s: float, earlier: list[PlannedOrder]) -> PlannedOrder:
    number = len(earlier)
    kinds = ("single", "batch", "long", "duplicate", "canceled", "deadline", "bypass")
    kind = dice.choices(kinds, (36, 14, 20, 12, 10, 5, 3))[0]
    body: dict[str, Any] = {"prompt": f"picture {number}", "seed": dice.randrange(2**31)}
    body["steps"] = dice.choice((2, 4, 8))
    if kind == "batch":
        body["n"] = dice.randint(2, 4)
    if kind in ("long", "canceled"):
        body |= {"steps": 100, "size": "256x256"}  # half a second
    if kind == "duplicate" and earlier:
        body = dict(dice.choice(earlier[-40:]).body)
        body.pop("deadline_s", None)
    if kind == "deadline":
        body["deadline_s"] = dice.randint(1, 3)
    if kind == "bypass":
        body["cache"] = "bypass"
    body["priority"] = dice.choice(("high", "normal", "normal", "low"))
    body["metadata"] = {"order": str(number)}
    return PlannedOrder(
        at_s=round(at_s, 3),
        number=number,
        kind=kind,
        owner=dice.choice(OWNERS),
        body=body,
        retried=dice.random() < 0.6,
        cancel_after_s=dice.uniform(0, 1.5) if kind == "canceled" else None,
    )
