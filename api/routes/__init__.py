"""One file per dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter

Route = TypeVar("Route", bound=Callable[..., Any])


def get(router: APIRouter, path: str, **options: Any) -> Callable[[Route], Route]:
    """A GET route that answers HEAD too; FastAPI would leave that to us."""

    def register(route: Route) -> Route:
        router.get(path, **options)(route)
        return router.head(path, include_in_schema=False)(route)

    return register
