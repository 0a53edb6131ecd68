"""The webhook of an order, judged as far as it can be without a look-up; and what is shown of it."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from shared.answers import JobView, View
from shared.errors import UrlNotAllowed
from shared.jobs import Webhook, WebhookEvent
from shared.ssrf import read_target, take_apart
from shared.store.outbox import Delivered, State, event_of
from shared.views import rfc3339

FINAL_EVENTS: tuple[WebhookEvent, ...] = (
    "job.succeeded",
    "job.failed",
    "job.canceled",
    "job.expired",
)


class NewWebhook(BaseModel):
    """Who is told of the job, by POST, signed as Standard Webhooks 1.0 has it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url: str = Field(
        description="https; on the public internet, or allowed by the operator",
        examples=["https://example.com/hooks/renders"],
    )
    events: list[WebhookEvent] | None = Field(
        None,
        min_length=1,
        max_length=len(get_args(WebhookEvent)),
        description="Absent: the four that end a job",
        examples=[["job.succeeded", "job.failed"]],
    )

    @field_validator("url")
    @classmethod
    def _allowed(cls, url: str, info: ValidationInfo) -> str:
        context: Any = info.context
        try:
            read_target(url, context.hosts)
        except UrlNotAllowed as error:
            why = {"why": str(error)}
            raise PydanticCustomError("webhook_url_not_allowed", "{why}", why) from None
        return url


def webhook_of(order: NewWebhook | None, base: str) -> Webhook | None:
    """`base`: how the client spells the farm's own URL; the Job that is sent has such links."""
    if order is None:
        return None
    events = tuple(dict.fromkeys(order.events or FINAL_EVENTS))
    return Webhook(url=order.url, events=events, lane=take_apart(order.url).origin, base=base)


class MessageView(View):
    """What a receiver gets; the headers sign it as Standard Webhooks 1.0 has it."""

    type: WebhookEvent
    timestamp: str = Field(
        description="When the event happened", examples=["2026-01-05T10:00:09.300Z"]
    )
    data: JobView = Field(
        description="The job when this was first tried; of its input only model and seed"
    )


class SecretView(View):
    object: Literal["webhook_secret"] = "webhook_secret"
    secret: str
    signatures: int


class AttemptView(View):
    at: str
    status: int | None
    error: str | None
    ms: int


class DeliveryView(View):
    object: Literal["delivery"] = "delivery"
    id: str
    job: str
    type: WebhookEvent
    index: int | None
    status: State
    created_at: str
    next_try_at: str | None
    attempts: list[AttemptView]


class DeliveriesView(View):
    object: Literal["list"] = "list"
    data: list[DeliveryView]


def delivery_view(found: Delivered) -> DeliveryView:
    event, index = event_of(found.name)
    return DeliveryView(
        id=found.id,
        job=found.job_id,
        type=event,
        index=index,
        status=found.state,
        created_at=rfc3339(found.at),
        next_try_at=None if found.due_at is None else rfc3339(found.due_at),
        attempts=[
            AttemptView(at=rfc3339(one.at), status=one.status, error=one.error, ms=one.ms)
            for one in found.attempts
        ],
    )
