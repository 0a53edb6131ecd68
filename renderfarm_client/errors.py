"""What can go wrong between a program and a farm.

RenderFarmError
├── Refused        the farm says no: an answer of 4xx
├── Unreachable    no answer, an answer of 5xx, or one that no render farm gives
├── StillRunning   the job is not done yet
└── JobEnded       the job is done, and not all of its images succeeded
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from renderfarm_client.records import Job


class RenderFarmError(Exception):
    """Something went wrong. What the farm said of it is in the attributes; None where it said nothing.

    `status` is the HTTP status, `code` one of `GET /errors`, `detail` a sentence, `field` the
    wrong field of the order, `request_id` what the farm's operator finds the request by, and
    `retry_after_s` when the farm wants to be asked again.
    """

    exit_code = 1  # what a command leaves with

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        detail: str | None = None,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.detail = detail or message
        self.field = field
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class Refused(RenderFarmError):
    """The farm refuses: sending the same again cannot help, but for 409 and 429."""

    exit_code = 2


class Unreachable(RenderFarmError):
    """The farm cannot be reached, or does not work. Sending the same again may help."""

    exit_code = 3


class StillRunning(RenderFarmError):
    """The job is not done in time. It goes on; `job` is the last that was seen of it."""

    exit_code = 4

    def __init__(self, job: Job) -> None:
        super().__init__(f"{job.id} is still {job.status} and goes on", code="job_not_finished")
        self.job = job


class JobEnded(RenderFarmError):
    """The job ended without all of its images; those of `job` that succeeded stay readable."""

    exit_code = 1

    def __init__(self, job: Job) -> None:
        ended = "was canceled" if job.status == "canceled" else job.status
        why = f": {job.error.message} ({job.error.code})" if job.error else ""
        super().__init__(f"{job.id} {ended}{why}", code=job.error.code if job.error else None)
        self.job = job
