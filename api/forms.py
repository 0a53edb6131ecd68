"""Multipart bodies: fields as text, files as bytes; both bounded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from api.errors import Problem

MOST_FILES, MOST_FIELDS = 20, 100
MOST_FIELD_BYTES = 2**18  # a prompt of 32000 characters fits twice
_LIST = re.compile(r"\[\d{0,3}\]$")


@dataclass(slots=True)
class Form:
    """`files` by name, in their order; `image[]` and `image[0]` are `image`."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


async def read_form(request: Request) -> Form:
    """Raises Problem 400, 413 and 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Problem(415, "unsupported_media_type", "send the order as multipart/form-data")
    form = Form()
    limits = {"max_files": MOST_FILES, "max_fields": MOST_FIELDS, "max_part_size": MOST_FIELD_BYTES}
    try:
        async with request.form(**limits) as parts:
            for name, part in parts.multi_items():
                if isinstance(part, UploadFile):
                    form.files.setdefault(_LIST.sub("", name), []).append(await part.read())
                else:
                    form.fields[name] = part
    except HTTPException as error:  # the parser's words name no field, but what is wrong
        raise Problem(400, "invalid_value", f"the form cannot be read: {error.detail}") from None
    return form
