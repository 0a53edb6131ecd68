"""Orders and pictures as `multipart/form-data`: files need no base64."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile

from api.errors import Fault, Problem, refuse
from api.reading import json_body
from api.references import Sent
from api.schemas import NewJob
from shared.intake import MOST_BYTES

MOST_FIELDS = 64
MOST_FIELD_BYTES = 256 * 1024
PICTURES = ("init_image", "mask_image")
_TEXTS = frozenset(
    {"prompt", "negative_prompt", "model", "size", "output_format", "cache", "priority"}
)
Body = bytes | dict[str, Any]


async def order_body(request: Request) -> Body:
    """The order as JSON, unparsed, or the fields of a form. Raises Problem 400, 413, 415."""
    if not is_form(request):
        return await json_body(request)
    return await read_form(request, PICTURES)


def is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "multipart/form-data"


async def read_form(request: Request, pictures: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a form: files as `Sent`, a part `job` unpacked, numbers and objects as JSON.

    Raises Problem 400.
    """
    limits = {"max_files": len(pictures) + 1, "max_fields": MOST_FIELDS}
    async with request.form(**limits, max_part_size=MOST_FIELD_BYTES) as form:
        _refuse_doubles(form)
        fields: dict[str, Any] = {}
        for name, value in form.items():
            if name in pictures and isinstance(value, UploadFile):
                fields[name] = await _file(name, value)
            elif name != "job":
                fields[name] = _value(name, value)
        return {**await _job(form.get("job")), **fields}


def _refuse_doubles(form: FormData) -> None:
    names = [name for name, _ in form.multi_items()]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise refuse([Fault("invalid_value", min(doubled)[:100], "is given more than once")])


async def _file(name: str, file: UploadFile) -> Sent:
    if (file.size or 0) > MOST_BYTES:
        more = f"the file has more than {MOST_BYTES // 2**20} MiB"
        raise refuse([Fault("invalid_image", name, more)])
    return Sent(await file.read())


def _value(name: str, value: UploadFile | str) -> Any:
    if isinstance(value, UploadFile):
        raise refuse([Fault("invalid_value", name[:100], "must not be a file")])
    if name in _TEXTS or name not in NewJob.model_fields:
        return value
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError:
        return value  # base64, or what the order's reader will refuse by its name


async def _job(part: UploadFile | str | None) -> dict[str, Any]:
    text = await part.read(MOST_FIELD_BYTES) if isinstance(part, UploadFile) else part
    if text is None:
        return {}
    try:
        order = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise Problem(400, "invalid_json", f"the part job is not JSON: {error}", "job") from None
    if not isinstance(order, dict):
        raise Problem(400, "invalid_json", "the part job must be a JSON object", "job")
    return order
