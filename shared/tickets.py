"""The Celery app and its one task. A message is a ticket: it carries no job, only an invitation.

Whoever serves a pool may take one render of it; which one is decided when the ticket arrives, by
the job store. Tickets are pushed by the store's own scripts, from a template that Celery's producer
makes here, so that record and ticket are one step. A lost ticket is topped up, a doubled one finds
nothing: correctness never rests on the broker.
"""

from __future__ import annotations

import json
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection

from shared.keys import queue_name
from shared.settings import Settings
from shared.store.address import broker

TASK = "renderfarm.take"
_ID, _POOL = "@ID@", "@POOL@"

# What a worker needs to come back from a cut or half-open link; docs/decisions has the reasons.
_TRANSPORT = {
    "ack_emulation": False,  # a ticket needs no acknowledgement, no visibility timeout, no restore
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 5,
    "retry_on_timeout": True,
}


class _Connection(Connection):
    """Comes back within a second of the broker: Celery's own pauses grow to 30 s and have no option."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        pauses = {"interval_start": 0.1, "interval_step": 0.1, "interval_max": 1.0}
        return super().ensure_connection(*args, **{**pauses, **options})


class _Amqp(AMQP):
    Connection = _Connection


def make_app(settings: Settings) -> Celery:
    """A Celery app that speaks to the farm's broker; connects to nothing yet.

    Raises SettingsError.
    """
    app = Celery("renderfarm", amqp=_Amqp, set_as_current=False)
    address = broker(settings.redis_address)
    app.conf.update(
        broker_url=address.url,
        broker_use_ssl=address.tls,
        broker_transport_options={**_TRANSPORT, **address.options},
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        worker_pool="solo",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        task_create_missing_queues=True,
    )
    return app


def ticket_template() -> str:
    """One ticket as Celery's own producer writes it, with `@ID@` and `@POOL@` to be filled in."""
    app = Celery("renderfarm", broker="memory://", set_as_current=False)
    app.conf.update(task_serializer="json")
    queue = queue_name(_POOL)
    with app.connection_for_write() as connection:
        app.send_task(TASK, task_id=_ID, queue=queue, connection=connection, ignore_result=True)
        message = connection.default_channel._get(queue)  # type: ignore[attr-defined]
    message["headers"]["origin"] = "renderfarm"  # else the name of this process
    message["properties"]["delivery_tag"] = _ID
    message["properties"]["reply_to"] = _ID
    return json.dumps(message)
