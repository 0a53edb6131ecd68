"""The HTTP application, from its parts."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from api.audit import Audit
from api.drain import Drain, LastAnswer
from api.errors import Problem, add_schema, problem_of, respond
from api.farm import Farm, answers, remembered
from api.fetching import Fetcher
from api.keyring import KeyRing
from api.live import Deaf, Live
from api.middleware import BodyLimit, RequestLog
from api.openapi import complete
from api.promises import Promises
from api.reference import add_reference
from api.routes import (
    admin,
    events,
    files,
    get,
    index,
    inputs,
    jobs,
    methods_at,
    models,
    openai,
    ops,
    queue,
    sdapi,
    txt2img,
    verify,
    webhooks,
    workers,
)  # fmt: skip
from api.routes import results as result_routes
from api.tracing import RequestSpan
from api.watch import Watch
from shared.catalog import Catalog
from shared.errors import FarmError
from shared.metrics import ApiMetrics, CallMetrics, StoreCollector, counted, page
from shared.owners import Office, office_in_memory
from shared.results.port import ResultStore
from shared.settings import Settings
from shared.signing import Signer
from shared.store.port import JobStore
from shared.traces import NoTraces, Traces
from shared.webhooks import trusted_hosts

WEB = Path(__file__).parent / "web"
STORAGE_CHECK_S = 5.0
STORE_CHECK_S = 30.0
WORKERS_S = 1.0
_PAGE = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def create_app(
    settings: Settings,
    store: JobStore,
    results: ResultStore,
    catalog: Catalog,
    registry: CollectorRegistry | None = None,
    open_live: Callable[[], Live] = Deaf,
    office: Office | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """The API over these parts. Connects to nothing. Raises SettingsError for bad keys or hosts.

    `open_live`: where those who wait hear of their jobs; without it they only ask the store.
    Without an `office` the only keys are those of the settings, without `traces` nothing is recorded.
    """
    registry, farm_wide = registry or CollectorRegistry(), CollectorRegistry()
    office = office or office_in_memory()
    calls, metrics = CallMetrics(registry), ApiMetrics(registry)
    ProcessCollector(registry=registry)
    store, results = counted(store, "jobs", calls), counted(results, "results", calls)
    store_faults = remembered(store.faults, STORE_CHECK_S)
    pools = [entry.pool for entry in catalog.entries.values()]
    farm_wide.register(StoreCollector(store, pools, store_faults))
    app = FastAPI(
        title="renderfarm",
        version=_version(),
        description=_ABOUT,
        redirect_slashes=False,
        docs_url=None,  # api.reference serves it without another's server
        redoc_url=None,
    )
    app.state.farm = Farm(
        settings=settings,
        store=store,
        results=results,
        catalog=catalog,
        hosts=trusted_hosts(settings),
        fetcher=Fetcher.of(settings),
        keys=KeyRing(settings, office.keys),
        audit=Audit(office.audit),
        signer=Signer(settings, store),
        metrics=metrics,
        metrics_page=lambda: page(registry, farm_wide),
        promises=Promises(metrics.eta_error.observe),
        version=app.version,
        storage_answers=remembered(lambda: answers(results.check), STORAGE_CHECK_S),
        store_faults=store_faults,
        drain=Drain(settings.api_drain_s),
        workers=remembered(store.workers, WORKERS_S),
        watch=Watch(store, open_live, metrics.waiting.track_inprogress),
    )
    _add_routes(app)
    for kind in (HTTPException, RequestValidationError, FarmError, Problem):
        app.add_exception_handler(kind, _answer)
    app.add_middleware(BodyLimit, limit_bytes=settings.max_body_mb * 2**20)
    https = (settings.public_url or "").startswith("https://")
    app.add_middleware(RequestLog, metrics=metrics, https=https)
    app.add_middleware(RequestSpan, traces=traces or NoTraces())
    app.add_middleware(LastAnswer, drain=app.state.farm.drain)  # the last is the outermost
    return app


def _add_routes(app: FastAPI) -> None:
    for router in (
        jobs.router, index.router, verify.router, queue.router, events.router, result_routes.router,
        files.router, models.router, inputs.router, webhooks.router, workers.router,
    ):  # fmt: skip
        app.include_router(router)
        app.include_router(router, prefix="/v1", include_in_schema=False)
    for router in (openai.router, txt2img.router):
        app.include_router(router, include_in_schema=False)
        app.include_router(router, prefix="/v1")
    app.include_router(openai.azure)
    app.include_router(sdapi.router)
    app.include_router(ops.router)
    app.include_router(admin.router)
    app.mount("/web", _Assets(directory=WEB))
    get(app.router, "/", include_in_schema=False)(_page)
    add_reference(app)
    app.webhooks.include_router(webhooks.messages)
    described = app.openapi
    app.openapi = lambda: complete(add_schema(described()))  # type: ignore[method-assign]


class _Assets(StaticFiles):
    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"  # asked for again, so never older than us
        return response


def _page() -> FileResponse:
    return FileResponse(WEB / "index.html", headers=_PAGE)


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        methods = methods_at(request.app.routes, request.url.path)
        error.headers = {"Allow": ", ".join(methods)} if methods else error.headers
    return respond(request, problem_of(error))


def _version() -> str:
    try:
        return version("renderfarm")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "0"


_ABOUT = """\
Order images of Stable Diffusion 3.5, look at the job, fetch the pictures.

Everything under `/jobs`, `/inputs`, `/files`, `/models`, `/queue`, `/workers` and `/webhooks`
answers under `/v1` too.
Every fault is `application/problem+json`; `GET /errors` lists the codes.
"""
