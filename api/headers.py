"""What every answer tells a browser: it is data, it stays here, and it is shown nowhere else."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders

HSTS_S = 31_536_000
_DATA = "default-src 'none'; frame-ancestors 'none'"


def secure(headers: MutableHeaders, *, https: bool) -> None:
    """Add what the route has not set itself. `https`: clients reach the farm by that alone."""
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("Content-Security-Policy", _DATA)
    if https:
        headers["Strict-Transport-Security"] = f"max-age={HSTS_S}"
