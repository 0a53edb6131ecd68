"""What opens with a signed URL, or with its owner's key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request

from api.auth import Owner, identify
from api.farm import Farm

Expiry = Annotated[str | None, Query(alias="exp", description="From the job")]
Signature = Annotated[str | None, Query(alias="sig", description="From the job")]


def opener(
    request: Request, farm: Farm, key: str | None, path: str, exp: str | None, sig: str | None
) -> Owner | None:
    """None where the signature of `path` speaks for the caller. A key that is sent goes before it.

    A URL that carries a signature stands or falls with it, in a farm without keys too.
    Raises Problem 401 or 403.
    """
    if key is None and (exp is not None or sig is not None):
        farm.signer.check(path, exp or "", sig or "")
        return None
    return identify(request, key)
