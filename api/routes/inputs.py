"""Pictures sent ahead of the orders that start from them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from api.auth import Caller
from api.errors import Problem, responses
from api.farm import farm_of
from api.inputs import store_image
from api.multipart import is_form, read_form
from api.negotiation import unchanged
from api.references import Sent
from api.routes import get
from shared.results.inputs import InputMissing, Inputs

router = APIRouter(tags=["inputs"])
_FILE = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "image/png": {"schema": _FILE},
        "image/jpeg": {"schema": _FILE},
        "image/webp": {"schema": _FILE},
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}
        },
    },
}
_TYPES = ("image/", "application/octet-stream")


class InputView(BaseModel):
    """An input; `sha256` names its pixels."""

    object: Literal["input"] = "input"
    sha256: str
    width: int
    height: int


async def sent_picture(request: Request) -> bytes:
    """The bytes of the body, or of the form's part `image`. Raises Problem 400, 413, 415."""
    if is_form(request):
        picture = (await read_form(request, ("image",))).get("image")
        if not isinstance(picture, Sent):
            raise Problem(400, "missing_field", "send a file as the part image", "image")
        return picture.data
    kind = request.headers.get("content-type", _TYPES[0]).strip().lower()
    if not kind.startswith(_TYPES):
        raise Problem(415, "unsupported_media_type", "send the picture itself, or a form")
    return await request.body()


@router.post(
    "/inputs",
    status_code=201,
    summary="Send a picture to start from",
    openapi_extra={"requestBody": _BODY},
    responses={
        201: {"model": InputView, "description": "Stored; an order may name it by its `sha256`"},
        **responses(
            "invalid_image", "invalid_value", "missing_field", "missing_api_key",
            "invalid_api_key", "body_too_large", "unsupported_media_type", "draining",
            "inputs_busy", "store_unavailable",
        ),
    },
)  # fmt: skip
def send(
    request: Request,
    owner: Caller,
    data: Annotated[bytes, Depends(sent_picture)],
    role: Annotated[Literal["image", "mask"], Query(description="How it will be used")] = "image",
) -> Response:
    farm = farm_of(request)
    farm.drain.refuse_orders()
    stored = store_image(farm, owner, data, field="image", role=role)
    headers = {"Location": f"{farm.links(request).base}/inputs/{stored.sha256}"}
    return JSONResponse({"object": "input", **stored.shown()}, 201, headers)


@get(
    router,
    "/inputs/{sha256}",
    summary="Fetch a picture that you sent",
    responses={
        200: {"description": "As it is kept: a plain PNG", "content": {"image/png": {}}},
        304: {"description": "You have it"},
        **responses("missing_api_key", "invalid_api_key", "input_not_found", "store_unavailable"),
    },
)
def fetch(request: Request, owner: Caller, sha256: str) -> Response:
    try:
        png = Inputs(farm_of(request).results).of(owner.name, sha256)
    except InputMissing:
        raise Problem(404, "input_not_found", "you have no input of this sha256") from None
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, immutable, max-age=31536000"}
    if unchanged(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(png, 200, headers, "image/png")
