"""The worker's side of plain Celery, as its documentation advises for long tasks: acks late, one
message at a time, the rest stock. Each end of a task is a line in a file that no fault touches.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

app = Celery("plain", broker=os.environ.get("PLAIN_BROKER", "memory://"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)


@app.task(name="plain.render")
def render(number: str, seconds: float) -> None:
    time.sleep(seconds)
    with Path(os.environ["PLAIN_DONE"]).open("a") as done:
        done.write(f"{number}\n")
