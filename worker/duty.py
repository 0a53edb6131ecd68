"""Before a worker loads its model: does the farm want it to?"""

from __future__ import annotations

import logging
import time

from shared.logs import event
from shared.store.values import Standing
from worker.heart import Heart, State

log = logging.getLogger("farm.worker")
LOOK_S = 0.2
_WAITS = "no model is loaded; `renderfarm workers release` lets it work"


def wait_for_duty(heart: Heart, quarantine_after: int) -> None:
    """Return when no order to drain stands and there is no quarantine; until then the card is free."""
    waited = False
    while state := _kept_from_work(heart.standing, quarantine_after):
        if not waited:
            event(log, state, logging.WARNING, worker=heart.name, unwell=heart.standing.unwell)
        heart.say(state, note=_WAITS)
        waited = True
        time.sleep(LOOK_S)
    if waited:
        event(log, "released", worker=heart.name)
        heart.say("loading")


def _kept_from_work(standing: Standing, quarantine_after: int) -> State | None:
    if standing.drain:
        return "draining"
    return "quarantined" if standing.unwell >= quarantine_after else None
