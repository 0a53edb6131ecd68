"""One file per dialect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute, compile_path

Route = TypeVar("Route", bound=Callable[..., Any])


def get(router: APIRouter, path: str, **options: Any) -> Callable[[Route], Route]:
    """A GET route that answers HEAD too; FastAPI would leave that to us."""

    def register(route: Route) -> Route:
        router.get(path, **options)(route)
        return router.head(path, include_in_schema=False)(route)

    return register


def methods_at(routes: Sequence[BaseRoute], path: str) -> set[str]:
    """Every method that the path answers. A 405 of the framework knows the first route's only."""
    found: set[str] = set()
    for route in iter_route_contexts(routes):
        if route.methods and route.path and compile_path(route.path)[0].match(path):
            found |= route.methods
    return found
