"""One line per event: JSON for machines, words for people. Passwords in URLs and API keys never get
through."""

from __future__ import annotations

import json
import logging
import re
import time
from contextvars import ContextVar
from typing import Any

from shared.traces import current

# Every line of a request bears its id, in whatever thread or library it is written.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^\s/]+@")  # to the last @: clients of Redis read it so
_KEY = re.compile(r"\brf_[A-Za-z0-9_-]{43}")  # an API key of ours, see shared/owners/keys.py
_WATCHED = ("httpx2", "httpcore2", "botocore", "boto3", "urllib3", "kombu", "celery", "asyncio")


def setup(component: str, level: str = "INFO", style: str = "json") -> None:
    """Send this process' log to stderr. `component`: api, worker, keeper, chores, farm."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(component) if style == "json" else _Text(component))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    take_over("uvicorn", "uvicorn.error")  # its command line was there before the application
    logging.getLogger("uvicorn.access").disabled = True  # URLs with signatures; ours has none
    for name in _WATCHED:  # their INFO is our DEBUG
        logging.getLogger(name).setLevel("DEBUG" if level == "DEBUG" else "WARNING")


def take_over(*names: str) -> None:
    """What these loggers write looks like all other lines, whatever handlers they came with."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True


def event(log: logging.Logger, action: str, level: int = logging.INFO, /, **fields: Any) -> None:
    """Log one event of a life: `event(log, "claimed", job=..., render=..., worker=...)`."""
    log.log(level, action, extra={"action": action, **fields})


def redact(text: str) -> str:
    return _KEY.sub("rf_***", _PASSWORD.sub(r"\1:***@", text))


class _Json(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _rfc3339(record.created),
            "level": record.levelname,
            "component": self._component,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str))


class _Text(logging.Formatter):
    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in _fields(record).items() if k != "action"}
        shown = " ".join(f"{key}={value}" for key, value in fields.items())
        line = (
            f"{_rfc3339(record.created)} {self._component} {record.levelname} {record.getMessage()}"
        )
        trace = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
        return redact(f"{line} {shown}".rstrip() + trace)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    context = current().context
    trace = context.trace_id if context else None
    known = {"request_id": request_id.get(), "trace": trace, **vars(record)}
    return {k: v for k, v in known.items() if k not in _PLAIN and v is not None}


def _rfc3339(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
