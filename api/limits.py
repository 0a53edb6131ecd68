"""What a key allows of one order; what it allows in sum, the store decides."""

from __future__ import annotations

from api.errors import Fault, Problem, refuse
from shared.owners.keys import Grant
from shared.store.values import WEIGHTS, Submission


def check(grant: Grant, submission: Submission) -> None:
    """Raises Problem 403 for its priority, 400 for what is larger than the key allows."""
    priority = submission.job.priority
    if WEIGHTS[priority] > WEIGHTS[grant.max_priority]:
        detail = f"this key allows `{grant.max_priority}` at most, not `{priority}`"
        raise Problem(403, "priority_not_allowed", detail, "priority")
    if faults := _too_large(grant, submission):
        raise refuse(faults)


def _too_large(grant: Grant, submission: Submission) -> list[Fault]:
    spec = submission.orders[0].spec  # the images of a job differ in nothing but the seed
    found = []
    for name, side_px in (("width", spec.width), ("height", spec.height)):
        if grant.max_side_px and side_px > grant.max_side_px:
            found.append(_fault("invalid_size", name, f"{grant.max_side_px} px"))
    if grant.max_pixels and spec.width * spec.height > grant.max_pixels:
        found.append(_fault("invalid_size", "height", f"{grant.max_pixels} pixels"))
    if grant.max_steps and spec.steps > grant.max_steps:
        found.append(_fault("invalid_value", "steps", f"{grant.max_steps}"))
    return found


def _fault(code: str, name: str, most: str) -> Fault:
    return Fault(code, name, f"your key allows {most} at most")
