"""Everything that can go wrong, as a tree.

    FarmError
    ├── InvalidOrder          the client's fault, found at the door
    ├── SettingsError         a setting is unknown, missing or impossible
    ├── ModelError            a model entry or its folder cannot be served
    │   └── ModelUnavailable  the weights could not be fetched
    ├── DeviceFault           the device answers nothing until its process starts anew
    ├── Unavailable           a part the farm stands on does not answer; trying again may help
    │   ├── StoreUnavailable      the job store (Redis)
    │   │   ├── StoreRefuses          it answers, but takes nothing: full, read-only, forbidden
    │   │   └── NotDurable            it took the order, but did not confirm that it stays
    │   └── ResultsUnavailable    the result store (S3 or a folder)
    ├── TryLater              nothing is wrong but the moment
    │   ├── QueueFull             the model's queue holds as many renders as it may
    │   ├── RateExceeded          the owner's key allows so many orders a minute
    │   └── QuotaExceeded         the owner has as much work queued as the key allows
    ├── KeyNotFound           no key has this id
    ├── NotStored             only stored pictures were wanted, and one is not
    ├── IdempotencyConflict   the key was used for another order
    ├── JobNotFound
    ├── JobGone               it was there once; its record has expired
    ├── JobFinished           too late to cancel, or nothing to retry
    ├── JobNotFinished        too early to retry
    ├── ResultGone            the record is there, the picture is not
    ├── UrlNotAllowed         a stranger's URL that the farm must not call
    ├── OutboundFailed        a stranger's URL gave no answer
    ├── SignatureWrong        a signed URL is not what was signed
    ├── UrlExpired            it is, but too old
    └── RenderStopped         a render ended before its picture, and nobody is to blame
        ├── Canceled              nobody waits for it any more
        ├── LeaseLost             another worker may hold it now
        └── GivenBack             this worker is leaving
    RenderFailed (a FarmError too): this render cannot succeed; carries the code a client sees

The core names the fault; the edge (HTTP, command line) chooses status and words.
A class's docstring is its default message.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.store.values import Rate


class FarmError(Exception):
    """Something went wrong in the farm."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


class InvalidOrder(FarmError):
    """The order cannot be accepted."""

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


class SettingsError(FarmError):
    """A setting is unknown, missing or impossible."""


class ModelError(FarmError):
    """The model cannot be served."""


class ModelUnavailable(ModelError):
    """The model's weights could not be fetched."""


class DeviceFault(FarmError):
    """The device failed."""


class Unavailable(FarmError):
    """A part of the farm does not answer; try again."""


class StoreUnavailable(Unavailable):
    """The job store does not answer."""


class StoreRefuses(StoreUnavailable):
    """The job store answers but does not take this now; its operator's log says why."""


class NotDurable(StoreUnavailable):
    """The job store did not confirm that the order is safe; send it again with the same Idempotency-Key."""


class ResultsUnavailable(Unavailable):
    """The result store does not answer."""


class TryLater(FarmError):
    """Not now; try again later."""

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_s: float | None = None,
        rate: Rate | None = None,
    ) -> None:
        """`retry_after_s`: None where nobody can tell. `rate`: what is left of the owner's orders."""
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.rate = rate


class QueueFull(TryLater):
    """The queue is full; try again later."""


class RateExceeded(TryLater):
    """This is more orders a minute than your key allows."""


class QuotaExceeded(TryLater):
    """This is more queued work than your key allows; some of it must start first."""


class KeyNotFound(FarmError):
    """There is no valid key of this id; `renderfarm keys list` shows them."""


class NotStored(FarmError):
    """Not every picture of the order is stored already."""


class IdempotencyConflict(FarmError):
    """This Idempotency-Key was used with another order."""


class JobNotFound(FarmError):
    """There is no such job."""


class JobGone(FarmError):
    """The job finished long ago and is no longer remembered."""


class JobFinished(FarmError):
    """The job has already finished."""


class JobNotFinished(FarmError):
    """The job has not finished yet."""


class ResultGone(FarmError):
    """The picture is no longer stored."""


class UrlNotAllowed(FarmError):
    """The farm may not call this URL."""


class OutboundFailed(FarmError):
    """The receiver did not answer."""


class SignatureWrong(FarmError):
    """The signature does not fit this URL."""


class UrlExpired(FarmError):
    """This URL has expired; the job has a fresh one."""


class RenderStopped(FarmError):
    """The render stopped before its picture was ready."""


class Canceled(RenderStopped):
    """Nobody waits for this render any more."""


class LeaseLost(RenderStopped):
    """The lease ran out; another worker may hold this render."""


class GivenBack(RenderStopped):
    """The worker is leaving and gives the render back."""


class RenderFailed(FarmError):
    """The render cannot succeed."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
