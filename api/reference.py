"""`/docs`: the reference of every route, to read and to try; every byte comes from this process."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from api.routes import get

PAGE = Path(__file__).parent / "web" / "docs.html"
# Swagger UI writes style attributes and draws with data: URLs; nothing else may be inline.
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def add_reference(app: FastAPI) -> None:
    """Put `/docs` into an application that was made with `docs_url=None`."""
    folder = str(resources.files("fastapi_swagger") / "resources")
    app.mount("/docs/assets", _SwaggerUi(directory=folder))
    get(app.router, "/docs", include_in_schema=False)(_page)


def _page() -> FileResponse:
    return FileResponse(PAGE, headers=HEADERS)


class _SwaggerUi(StaticFiles):
    """Only the files that the page asks for."""

    names = frozenset({"swagger-ui.css", "swagger-ui-bundle.js"})

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return super().lookup_path(path) if path in self.names else ("", None)

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"  # asked for again: 304, until an upgrade
        return response
