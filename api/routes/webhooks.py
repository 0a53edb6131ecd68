"""What an owner does about webhooks: the secret, the log of deliveries, another try."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.auth import Caller
from api.errors import Problem, responses
from api.farm import farm_of
from api.routes import get
from api.webhooks import DeliveriesView, DeliveryView, MessageView, SecretView, delivery_view
from shared.store.outbox import Delivered
from shared.webhooks import new_secret

router = APIRouter(tags=["webhooks"])
_KEY = ("missing_api_key", "invalid_api_key", "store_unavailable")
_JOB = (*_KEY, "job_not_found", "job_gone")


@get(
    router,
    "/webhooks/secret",
    summary="What your webhooks are signed with",
    responses=responses(*_KEY),
)
def secret(request: Request, response: Response, owner: Caller) -> SecretView:
    signing = farm_of(request).store.webhook_secrets(owner.name, new_secret())
    return _secret(response, signing)


@router.post(
    "/webhooks/secret/rotate",
    summary="Take a new secret; the old one signs too for a day",
    responses=responses(*_KEY),
)
def rotate(request: Request, response: Response, owner: Caller) -> SecretView:
    signing = farm_of(request).store.webhook_secrets(owner.name, new_secret(), rotate=True)
    return _secret(response, signing)


@get(
    router,
    "/jobs/{job_id}/deliveries",
    summary="What became of a job's webhooks",
    responses=responses(*_JOB),
)
def deliveries(request: Request, owner: Caller, job_id: str) -> DeliveriesView:
    farm = farm_of(request)
    job = farm.find(request, job_id, owner)
    return DeliveriesView(data=[delivery_view(one) for one in farm.store.deliveries(job.id)])


@router.post(
    "/jobs/{job_id}/redeliver",
    status_code=202,
    summary="Send a webhook again",
    responses=responses(*_JOB, "delivery_not_found"),
)
def redeliver(
    request: Request,
    owner: Caller,
    job_id: str,
    delivery: Annotated[str | None, Query(description="Its id; absent: the newest")] = None,
) -> DeliveryView:
    farm = farm_of(request)
    job = farm.find(request, job_id, owner)
    chosen = _chosen(farm.store.deliveries(job.id), delivery)
    if chosen is None or not farm.store.redeliver(job.id, chosen.name):
        raise Problem(404, "delivery_not_found", "the job has no such delivery", "delivery")
    return delivery_view(_chosen(farm.store.deliveries(job.id), chosen.id) or chosen)


# For the OpenAPI document: not routes of ours, but what a receiver's must take.
messages = APIRouter(tags=["webhooks"])


@messages.post(
    "webhook",
    status_code=204,
    summary="An event of a job",
    response_description="Heard: any 2xx will do",
    responses={
        "410": {"description": "Never send this again"},
        "default": {"description": "Sent again later"},
    },
)
def message(body: MessageView) -> None:
    """One URL gets all events that its order asked for; `docs/webhooks.md` has the headers."""


def _chosen(found: list[Delivered], delivery: str | None) -> Delivered | None:
    fitting = [one for one in found if delivery in (None, one.id)]
    return fitting[-1] if fitting else None


def _secret(response: Response, signing: list[str]) -> SecretView:
    response.headers["Cache-Control"] = "no-store"
    return SecretView(secret=signing[0], signatures=len(signing))
