"""The composition root of the API: `renderfarm api`, or `python -m uvicorn api.main:app`."""

from __future__ import annotations

import asyncio
import atexit
import logging
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, cast

import uvicorn

from api.app import create_app
from api.auth import refuse_open_door
from api.connections import BoundedConnection, allow_files
from api.drain import DrainingServer
from api.live import RedisLive
from shared import logs
from shared.catalog import load_catalog
from shared.owners import open_office
from shared.results import open_results
from shared.settings import Settings, load_settings
from shared.store import open_store
from shared.store.checks import report
from shared.traces import Traces, open_traces

if TYPE_CHECKING:
    from fastapi import FastAPI

    from api.farm import Farm

log = logging.getLogger("api")
KEEP_ALIVE_S = 75  # longer than the 60 s of most proxies, so that they close first
GRACE_S = 30


def build(settings: Settings, traces: Traces | None = None) -> FastAPI:
    """The application on the real parts. Raises SettingsError, ModelError."""
    office = open_office(settings)
    refuse_open_door(settings, office.keys)
    return create_app(
        settings,
        open_store(settings),
        open_results(settings),
        load_catalog(settings.models_file, settings.default_model),
        open_live=lambda: RedisLive(settings.redis_address),
        office=office,
        traces=traces,
    )


def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT, then drain, and finish what was begun. Raises SettingsError.

    The first signal refuses new orders and answers polls for `api_drain_s` more; a second hurries.
    """
    logs.setup("api", settings.log_level, settings.log_format)
    traces = open_traces("api", settings)
    app = build(settings, traces)
    farm: Farm = app.state.farm
    Thread(target=report, args=(farm.store, log), name="check", daemon=True).start()
    allow_files(settings.max_connections)
    config = uvicorn.Config(
        app,
        http=bounded(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # the application logs requests itself, without signatures
        server_header=False,
        proxy_headers=False,  # api.links reads them, where they are trusted
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    DrainingServer(config, farm.drain, farm.watch.leave).run()
    traces.close()


def bounded(settings: Settings) -> type[asyncio.Protocol]:
    """How uvicorn makes each connection."""
    protocol = partial(
        BoundedConnection,
        request_timeout_s=settings.request_timeout_s,
        max_connections=settings.max_connections,
    )
    # uvicorn calls it and asks no more of it
    return cast("type[asyncio.Protocol]", protocol)


def __getattr__(name: str) -> FastAPI:
    """`app`, made when a server asks for it and not at import."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settings = load_settings()
    logs.setup("api", settings.log_level, settings.log_format)
    traces = open_traces("api", settings)
    atexit.register(traces.close)
    return build(settings, traces)
