"""openai-python, unmodified: OPENAI_BASE_URL and OPENAI_API_KEY are all that it is told."""

from __future__ import annotations

import io
import os
from typing import Any

import openai
from case import case, decoded, main, opened, size

client = openai.OpenAI(timeout=60)
DRAW: dict[str, Any] = {
    "prompt": "a red fox", "size": "64x64", "extra_body": {"steps": 2, "seed": 42},
}  # fmt: skip
PICTURE = os.environ["PICTURE"]
MASK = os.environ["MASK"]


def file(path: str = PICTURE, name: str = "fox.png") -> Any:
    with open(path, "rb") as opened:
        return (name, io.BytesIO(opened.read()), "image/png")


@case
def version() -> str:
    return openai.__version__


@case
def b64() -> Any:
    answer = client.images.generate(model="gpt-image-1", **DRAW)
    assert answer.data
    usage = answer.usage
    return {
        "size": size(decoded(answer.data[0].b64_json)), "url": answer.data[0].url,
        "tokens": usage and usage.total_tokens, "seed": answer.data[0].seed,  # type: ignore[attr-defined]
    }  # fmt: skip


@case
def url() -> Any:
    answer = client.images.generate(model="gpt-image-1", response_format="url", **DRAW)
    assert answer.data
    picture, kind = opened(answer.data[0].url)
    return {"size": size(picture), "type": kind, "b64": answer.data[0].b64_json}


@case
def dall_e() -> Any:
    answer = client.images.generate(model="dall-e-3", **DRAW)
    assert answer.data
    return {"url": bool(answer.data[0].url), "b64": answer.data[0].b64_json}


@case
def any_name() -> Any:
    answer = client.images.generate(model="something", **DRAW)
    return len(answer.data or [])


@case
def two() -> Any:
    answer = client.images.generate(model="gpt-image-1", n=2, **DRAW)
    return [item.seed for item in answer.data or []]  # type: ignore[attr-defined]


@case
def raw_headers() -> Any:
    answer = client.images.with_raw_response.generate(model="gpt-image-1", **DRAW)
    return {name: answer.headers.get(name) for name in ("x-model", "x-job-id", "x-request-id")}


@case
def edit_one() -> Any:
    answer = client.images.edit(model="gpt-image-1", image=file(), **DRAW)
    return [size(decoded(item.b64_json)) for item in answer.data or []]


@case
def edit_two() -> Any:
    both = [file(), file(name="second.png")]
    answer = client.images.with_raw_response.edit(model="gpt-image-1", image=both, **DRAW)
    return {"images": len(answer.parse().data or []), "ignored": answer.headers["x-ignored-params"]}


@case
def edit_mask() -> Any:
    answer = client.images.edit(model="gpt-image-1", image=file(), mask=file(MASK), **DRAW)
    return [size(decoded(item.b64_json)) for item in answer.data or []]


@case
def variation() -> Any:
    answer = client.images.create_variation(
        image=file(), size="256x256", response_format="b64_json"
    )
    return [size(decoded(item.b64_json)) for item in answer.data or []]


@case
def stream() -> Any:
    draw = {**DRAW, "extra_body": {"steps": 12, "cache": "bypass"}}
    events = client.images.generate(model="gpt-image-1", stream=True, partial_images=2, **draw)
    return [
        {"type": event.type, "picture": decoded(event.b64_json)[:4].hex(), "format": event.output_format}
        for event in events
    ]  # fmt: skip


@case
def edit_stream() -> Any:
    events = client.images.edit(model="gpt-image-1", image=file(), stream=True, **DRAW)
    return [event.type for event in events]


@case
def models() -> Any:
    return [model.id for model in client.models.list()]


@case
def one_model() -> Any:
    return client.models.retrieve("tiny").id


@case
def bad_model() -> Any:
    return client.images.generate(model="invalid-model", **DRAW)


@case
def bad_size() -> Any:
    return client.images.generate(model="gpt-image-1", prompt="a fox", size="17x17")


@case
def bad_key() -> Any:
    return openai.OpenAI(api_key="wrong").images.generate(model="gpt-image-1", **DRAW)


@case
def cut() -> Any:
    """The connection breaks in mid-render: the SDK asks again, on its own."""
    weak = openai.OpenAI(base_url=os.environ["CUT_URL"], timeout=90)
    draw = {**DRAW, "size": "256x256", "extra_body": {"steps": 40, "metadata": {"case": "cut"}}}
    answer = weak.images.with_raw_response.generate(model="gpt-image-1", **draw)
    return {"retries": answer.retries_taken, "images": len(answer.parse().data or [])}


@case
def too_slow() -> Any:
    """A client that waits for 3 s is told before that, and does not order once more."""
    draw = {**DRAW, "size": "1024x1024", "extra_body": {"steps": 50, "metadata": {"case": "slow"}}}
    try:
        return client.with_options(timeout=3.0).images.generate(model="gpt-image-1", **draw)
    except openai.APIStatusError as error:  # it names the job, which may then be canceled
        job = error.response.headers["x-job-id"]
        client.post(f"/jobs/{job}/cancel", cast_to=object)
        raise


@case
def idempotent() -> Any:
    headers = {"Idempotency-Key": f"case-{openai.__version__}"}
    draw = {**DRAW, "extra_body": {"steps": 2}}
    answers = [
        client.images.with_raw_response.generate(model="gpt-image-1", extra_headers=headers, **draw)
        for _ in range(2)
    ]
    return {
        "jobs": len({answer.headers["x-job-id"] for answer in answers}),
        "replayed": answers[1].headers.get("idempotent-replayed"),
    }


if __name__ == "__main__":
    main()
