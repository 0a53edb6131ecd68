"""Writing down what admins do: in the log of this process, and in the farm's own."""

from __future__ import annotations

import logging

from fastapi import Request

from api.owner import Owner
from shared import logs
from shared.errors import StoreUnavailable
from shared.jobs import Job
from shared.owners.port import Act, AuditLog

log = logging.getLogger("api.audit")


class Audit:
    """The act is done when it is noted; a store that does not answer costs only the second copy."""

    def __init__(self, kept: AuditLog) -> None:
        self.kept = kept

    def upon_another(self, request: Request, owner: Owner, what: str, job: Job) -> None:
        """Note what was done to a job, if it is somebody else's."""
        if job.owner != owner.name:
            self.note(request, owner, what, job.id, whose=job.owner)

    def note(
        self, request: Request, owner: Owner, what: str, target: str, *, whose: str | None = None
    ) -> None:
        """`what` is `noun.verb`, such as `worker.drained`; `whose`: the owner of the target."""
        act = Act(
            actor=owner.name,
            key=owner.key_id,
            what=what,
            target=target,
            owner=whose,
            request_id=request.state.request_id,
        )
        logs.event(log, "audit", **act.model_dump(exclude={"id", "at"}))
        try:
            self.kept.record(act)
        except StoreUnavailable as error:
            logs.event(log, "audit_not_kept", logging.WARNING, what=what, reason=str(error))
