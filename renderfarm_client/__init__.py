"""A typed client of a render farm, for scripts and programs. Needs httpx2 and pydantic only.

from renderfarm_client import Client

with Client("http://127.0.0.1:8000") as farm:
    job = farm.render(prompt="a lighthouse at dusk", seed=42)
    print(farm.save(job, "out"))
"""

from renderfarm_client.client import Client
from renderfarm_client.errors import (
    JobEnded,
    Refused,
    RenderFarmError,
    StillRunning,
    Unreachable,
)
from renderfarm_client.farm import Poison, Worker
from renderfarm_client.records import (
    Estimate,
    Event,
    FarmStatus,
    Image,
    Job,
    Lora,
    Model,
    Problem,
    Queue,
)
from renderfarm_client.webhooks import Delivery, WebhookSecret

__all__ = [
    "Client",
    "Delivery",
    "Estimate",
    "Event",
    "FarmStatus",
    "Image",
    "Job",
    "JobEnded",
    "Lora",
    "Model",
    "Poison",
    "Problem",
    "Queue",
    "Refused",
    "RenderFarmError",
    "StillRunning",
    "Unreachable",
    "WebhookSecret",
    "Worker",
]
