"""The table of error codes, as `GET /errors` serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INVALID = "invalid_request_error"


@dataclass(slots=True, frozen=True)
class Kind:
    """What a code means. `type` is OpenAI's `error.type`."""

    statuses: tuple[int, ...]
    meaning: str
    title: str
    type: str = INVALID


def _kinds(*statuses: int, type: str = INVALID, **meanings: str) -> dict[str, Kind]:
    return {
        code: Kind(statuses, meaning, code.replace("_", " ").capitalize(), type)
        for code, meaning in meanings.items()
    }


CODES: dict[str, Kind] = {
    **_kinds(
        400,
        invalid_json="The body is not a JSON object in UTF-8.",
        invalid_value="A field has a wrong type or lies outside its limits.",
        missing_field="A required field is missing.",
        unknown_field="There is no such field.",
        conflicting_fields="A field and its alias say different things.",
        invalid_cursor="`after` or `before` is not the id of a job.",
        invalid_size="Width or height is outside what the model can draw.",
        invalid_image="The picture cannot be read, is too large, or is not yours.",
        lora_not_found="The farm has no LoRA of this name.",
        unsupported_for_model="This cannot be ordered here.",
        webhook_url_not_allowed="The farm does not call this URL; the detail says why.",
        invalid_idempotency_key="Idempotency-Key is 1 to 255 visible ASCII characters.",
    ),
    **_kinds(
        401,
        type="authentication_error",
        missing_api_key="The farm wants a key: `Authorization: Bearer KEY`.",
        invalid_api_key="The key, or the signature of a URL, is not right.",
    ),
    **_kinds(
        403,
        type="permission_error",
        admin_only="Only an admin's key may do this.",
        scope_missing="The key may not do this: it lacks the scope `read` or `submit`.",
        priority_not_allowed="The key does not allow this priority.",
        url_expired="The signed URL has expired; the job has a fresh one.",
    ),
    **_kinds(
        404,
        job_not_found="There is no such job, or it is not yours.",
        image_not_found="The job has no such picture, or not yet.",
        input_not_found="You have sent no input of this name, or it is no longer kept.",
        render_not_found="There is no such render on the list of poison.",
        delivery_not_found="The job has no such delivery of a webhook.",
        worker_not_found="No worker of this name was heard of within an hour.",
        unknown_url="There is nothing at this URL.",
    ),
    **_kinds(400, 404, model_not_found="The farm serves no model of this name."),
    **_kinds(405, method_not_allowed="This URL does not answer this method; see `Allow`."),
    **_kinds(406, not_acceptable="None of the types in `Accept` can be made."),
    **_kinds(
        409,
        job_already_finished="The job has finished: there is nothing to cancel, or to retry.",
        job_not_finished="The job has not finished yet; cancel it, or wait.",
    ),
    **_kinds(
        410,
        job_gone="The job finished so long ago that it is no longer remembered.",
        result_gone="The picture is no longer stored; order it again.",
        job_failed="The picture could not be rendered; the job says why.",
        job_canceled="The picture was canceled.",
        job_expired="The picture had not been started by the deadline.",
    ),
    **_kinds(413, body_too_large="The body is larger than the farm takes."),
    **_kinds(415, unsupported_media_type="The body must be `application/json`."),
    **_kinds(416, invalid_range="The range lies outside the picture."),
    **_kinds(408, request_timeout="The request did not arrive as a whole in time."),
    **_kinds(422, idempotency_key_reused="This Idempotency-Key was used with another order."),
    **_kinds(
        429,
        type="rate_limit_error",
        rate_limit_exceeded="More orders a minute than the key allows; see `Retry-After`.",
        quota_exceeded="More queued work than the key allows; some must start first.",
    ),
    **_kinds(
        500,
        type="server_error",
        internal_error="A fault of the farm; it has been logged under the request's id.",
    ),
    **_kinds(
        500,
        type="server_error",
        worker_lost="The render took down its workers; it is not tried again.",
        out_of_memory="The device had too little memory for this picture.",
        container_memory="The memory limit of the worker's container was reached.",
        render_error="The engine could not draw this.",
        lora_unusable="A LoRA of the order is missing or damaged on the worker.",
        input_missing="An input image of the order is no longer stored.",
        storage_unavailable="The picture was drawn but could not be stored.",
        model_load_failed="The model could not be loaded.",
        worker_too_old="No worker is new enough for this order.",
    ),
    **_kinds(
        504,
        type="server_error",
        sync_timeout="The picture was not ready in time; the job that is named may still finish.",
    ),
    **_kinds(
        503,
        type="server_error",
        too_many_connections="This process of the API has as many connections as it may.",
        model_not_ready="No worker of this model is ready.",
        draining="This process of the API is leaving; another takes the order at once.",
        inputs_busy="Too many pictures are being read at once; try again after `Retry-After`.",
        queue_full="The queue is full; try again after `Retry-After` seconds.",
        store_unavailable="The job store or the result store does not answer; try again.",
    ),
}


def kind_of(code: str) -> Kind:
    return CODES[code]


def table() -> list[dict[str, Any]]:
    return [
        {
            "code": code,
            "title": kind.title,
            "status": list(kind.statuses),
            "type": kind.type,
            "meaning": kind.meaning,
        }
        for code, kind in CODES.items()
    ]
