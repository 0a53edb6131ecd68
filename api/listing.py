"""What `GET /jobs` may be asked: its query parameters, read strictly into a `JobQuery`."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from api.auth import Owner
from api.errors import Fault, Problem, refuse
from api.farm import JOB_ID
from shared.catalog import Catalog
from shared.errors import InvalidOrder
from shared.jobs import JobStatus
from shared.store.queries import JobQuery

_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_CODES = {"extra_forbidden": "unknown_field"}


def _plus(text: Any) -> Any:
    """A `+` that was sent as it is reads as a blank in a query."""
    return re.sub(r" (\d\d:?\d\d)$", r"+\1", text) if isinstance(text, str) else text


Moment = Annotated[AwareDatetime, BeforeValidator(_plus)]
Cursor = Annotated[str, Field(pattern=f"^{JOB_ID.pattern}$")]


class Listing(BaseModel):
    """Jobs in the order in which they came."""

    model_config = ConfigDict(extra="forbid")

    status: list[JobStatus] = Field([], description="May be repeated: any of them")
    model: str | None = Field(None, description="Id or alias")
    created_after: Moment | None = Field(None, description="RFC 3339; later than this")
    created_before: Moment | None = Field(None, description="RFC 3339; earlier than this")
    limit: int = Field(20, ge=1, le=100)
    after: Cursor | None = Field(None, description="`last_id` of the page before")
    before: Cursor | None = Field(None, description="`first_id` of the page behind")
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: the newest first")
    owner: str | None = Field(None, description="Admins: an owner's name, or `*` for everybody")

    def query(self, caller: Owner, catalog: Catalog, metadata: dict[str, str]) -> JobQuery:
        """A page that ends before a cursor is one that follows it, the other way round."""
        newest_first = self.order == "desc"
        return JobQuery(
            owner=_owner(self.owner, caller),
            limit=self.limit,
            after=self.before or self.after,
            newest_first=newest_first != bool(self.before),
            since=None if self.created_after is None else (_ms(self.created_after) + 1) / 1000,
            until=None if self.created_before is None else _ms(self.created_before) / 1000,
            statuses=frozenset(self.status),
            model=_folded(self.model, catalog),
            metadata=metadata,
        )


def read_listing(request: Request) -> tuple[Listing, dict[str, str]]:
    """The parameters, and the pairs of `metadata[key]`. Raises Problem 400 with all faults."""
    given: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    faults: list[Fault] = []
    for name, value in request.query_params.multi_items():
        if match := _METADATA.fullmatch(name):
            metadata[match[1]] = value
        elif name == "status":
            given.setdefault(name, []).append(value)
        elif name in given:
            faults.append(_fault("invalid_value", name, "stands there twice"))
        else:
            given[name] = value
    try:
        listing = Listing.model_validate(given)
    except ValidationError as error:
        faults += [_bad(one["type"], str(one["loc"][0]), one["msg"]) for one in error.errors()]
    else:
        if listing.after and listing.before:
            faults.append(_fault("conflicting_fields", "before", "only one of after and before"))
    if faults:
        raise refuse(faults)
    return listing, metadata


def _bad(kind: str, name: str, message: str) -> Fault:
    if name in ("after", "before"):
        return _fault("invalid_cursor", name, "must be the id of a job")
    told = "there is no such parameter" if kind == "extra_forbidden" else message
    return _fault(_CODES.get(kind, "invalid_value"), name[:100], told)


def _fault(code: str, name: str, detail: str) -> Fault:
    return Fault(code, name, detail, "query")


def _owner(named: str | None, caller: Owner) -> str | None:
    if named in (None, caller.name):
        return caller.name
    if not caller.admin:
        raise Problem(403, "admin_only", "only an admin may list another's jobs", "owner")
    return None if named == "*" else named


def _folded(name: str | None, catalog: Catalog) -> str | None:
    """A model that is no longer served may still have jobs."""
    try:
        return name and catalog.find(name).id
    except InvalidOrder:
        return name


def _ms(moment: datetime) -> int:
    """Jobs show their times in whole milliseconds, so only these can be asked for."""
    return math.floor(moment.timestamp() * 1000)


def parameters() -> list[dict[str, Any]]:
    """The same for OpenAPI."""
    fields = Listing.model_json_schema()["properties"]
    described = [
        {"name": name, "in": "query", "required": False, "schema": schema}
        | ({"description": schema.pop("description")} if "description" in schema else {})
        for name, schema in fields.items()
    ]
    pairs = {"type": "object", "additionalProperties": {"type": "string"}}
    about = "`metadata[key]=value`: jobs with this pair"
    return [
        *described,
        {
            "name": "metadata", "in": "query", "required": False, "style": "deepObject",
            "explode": True, "schema": pairs, "description": about,
        },
    ]  # fmt: skip
