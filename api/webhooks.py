"""The webhook of an order: whom to tell, judged as far as it can be without looking a name up."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from shared.errors import UrlNotAllowed
from shared.jobs import Webhook, WebhookEvent
from shared.ssrf import read_target, take_apart

FINAL_EVENTS: tuple[WebhookEvent, ...] = (
    "job.succeeded",
    "job.failed",
    "job.canceled",
    "job.expired",
)


class NewWebhook(BaseModel):
    """Who is told of the job, by POST, signed as Standard Webhooks 1.0 has it."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    url: str = Field(description="https; on the public internet, or allowed by the operator")
    events: list[WebhookEvent] | None = Field(
        None,
        min_length=1,
        max_length=len(get_args(WebhookEvent)),
        description="Absent: the four that end a job",
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
