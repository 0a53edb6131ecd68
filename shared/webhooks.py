"""Standard Webhooks 1.0: what is sent, how it is signed, and when it is tried again.

https://www.standardwebhooks.com; verified by every library of that name.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook as Secret

from shared.answers import JobView
from shared.errors import SettingsError
from shared.settings import Settings, variable
from shared.ssrf import Hosts
from shared.views import rfc3339

MOST_BYTES = 20_000
TIMEOUT_S = 15.0
GONE = 410  # the receiver's word for: never again
# Before each further try. Ten tries in three days, as api.md has it.
PAUSES_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
_SPREAD = 0.1  # so that what failed together does not come back together
_SECRET_BYTES = 32
_RANDOM = secrets.SystemRandom()


def trusted_hosts(settings: Settings) -> Hosts:
    """Raises SettingsError."""
    try:
        return Hosts.of(settings.webhook_allow_hosts)
    except SettingsError as error:
        raise SettingsError(f"{variable('webhook_allow_hosts')}: {error}") from None


def new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def pause_s(tries: int) -> float | None:
    """Seconds until the next try after so many; None: that was the last."""
    if tries > len(PAUSES_S):
        return None
    return PAUSES_S[tries - 1] * _RANDOM.uniform(1 - _SPREAD, 1 + _SPREAD)


def body_of(event: str, at: float, view: JobView) -> str:
    """The message, as JSON of less than `MOST_BYTES`; `at` in unix seconds.

    The Job is whole but for its input, of which only model and seed are told. One that is too large
    keeps of each image its index, seed and status, then loses its metadata; `truncated` names what
    was shortened.
    """
    data = view.model_dump(mode="json")
    data["input"] = {name: data["input"].get(name) for name in ("model", "seed")}
    body = _message(event, at, data)
    for name, shorten in _SHORTER.items():
        if len(body.encode()) < MOST_BYTES:
            break
        data[name] = shorten(data[name])
        data.setdefault("truncated", []).append(name)
        body = _message(event, at, data)
    return body


def signed(secret_list: Sequence[str], message_id: str, at: float, body: str) -> dict[str, str]:
    """The headers of one attempt, made at `at`: a signature by each secret, newest first."""
    moment = datetime.fromtimestamp(int(at), UTC)
    marks = (Secret(secret).sign(message_id, moment, body) for secret in secret_list)
    return {
        "Content-Type": "application/json",
        "User-Agent": "renderfarm-webhooks",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": " ".join(marks),
    }


def _message(event: str, at: float, data: dict[str, Any]) -> str:
    message = {"type": event, "timestamp": rfc3339(at), "data": data}
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def _short_images(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: image[name] for name in ("index", "seed", "status")} for image in images]


_SHORTER: dict[str, Callable[[Any], Any]] = {
    "images": _short_images,
    "metadata": lambda pairs: {},
    "error": lambda error: error and error | {"message": error["message"][:500]},
}
