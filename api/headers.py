"""What every answer tells a browser: it is data, it stays here, and it is shown nowhere else."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

HSTS_S = 31_536_000
_DATA = "default-src 'none'; frame-ancestors 'none'"
_CDN = "https://cdn.jsdelivr.net"
_DOCS = (  # Swagger's page, as FastAPI writes it
    f"default-src 'none'; script-src {_CDN} 'unsafe-inline'; style-src {_CDN} 'unsafe-inline'; "
    "img-src https://fastapi.tiangolo.com data:; connect-src 'self'; frame-ancestors 'none'"
)


def secure(headers: MutableHeaders, path: str, *, https: bool) -> None:
    """Add what the route has not set itself. `https`: clients reach the farm by that alone."""
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("Content-Security-Policy", _DOCS if path == "/docs" else _DATA)
    if https:
        headers["Strict-Transport-Security"] = f"max-age={HSTS_S}"
