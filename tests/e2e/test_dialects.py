"""The foreign dialects on the real parts: HTTP, Redis, leased workers, real pipeline, stored pictures."""

from __future__ import annotations

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from PIL import Image

from shared.images import read_info
from tests.e2e.farm import RunningFarm
from tests.waiting import wait_until

FOX = {"prompt": "a red fox", "size": "64x64", "steps": 2}
pytestmark = pytest.mark.xdist_group("e2e")  # it shares the farm
SLOW = {"prompt": "a red fox", "size": "512x512", "steps": 100}  # half a minute: cancel it
GENERATIONS = "/v1/images/generations"


def post(farm: RunningFarm, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(f"{farm.url}{path}", json=body, headers=named, timeout=60)


def size_of(data: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(data)).size


def test_openais_answer_is_a_picture_in_base64(farm: RunningFarm) -> None:
    answer = post(farm, GENERATIONS, FOX | {"n": 2, "seed": 900, "model": "gpt-image-1"}).json()

    pictures = [base64.b64decode(item["b64_json"]) for item in answer["data"]]
    assert [size_of(data) for data in pictures] == [(64, 64)] * 2
    assert [read_info(data)["renderfarm"]["seed"] for data in pictures] == [900, 901]


def test_openais_answer_is_a_url_that_opens(farm: RunningFarm) -> None:
    answer = post(farm, GENERATIONS, FOX | {"model": "dall-e-3", "seed": 910}).json()

    opened = httpx2.get(answer["data"][0]["url"], timeout=30)
    assert (opened.status_code, size_of(opened.content)) == (200, (64, 64))


def test_openais_stream_shows_previews_and_then_the_pictures(farm: RunningFarm) -> None:
    body = FOX | {"stream": True, "n": 2, "partial_images": 3, "size": "256x256", "steps": 24}
    with httpx2.stream("POST", f"{farm.url}{GENERATIONS}", json=body, timeout=60) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]

    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    done = [event for event in events if event["type"] == "image_generation.completed"]
    early = [event for event in events if event["type"] == "image_generation.partial_image"]
    assert len(early) + len(done) == len(events)
    assert [size_of(base64.b64decode(event["b64_json"])) for event in done] == [(256, 256)] * 2
    assert 1 <= len(early) <= 6
    assert {event["partial_image_index"] for event in early} <= {0, 1, 2}
    kinds = {Image.open(io.BytesIO(base64.b64decode(e["b64_json"]))).format for e in early}
    assert kinds == {event["output_format"].upper() for event in early}


def test_an_edit_is_drawn_from_the_picture_and_keeps_what_is_masked(farm: RunningFarm) -> None:
    """The mask's left half is transparent: only that half is drawn anew."""
    file, mask = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(file, "PNG")
    holes = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    holes.paste((0, 0, 0, 0), (0, 0, 32, 64))
    holes.save(mask, "PNG")

    response = httpx2.post(
        f"{farm.url}/v1/images/edits",
        data={"prompt": "a red fox", "size": "64x64", "steps": "4", "seed": "920"},
        files={"image": ("a.png", file.getvalue()), "mask": ("m.png", mask.getvalue())},
        timeout=60,
    )

    assert response.status_code == 200, response.text
    drawn = base64.b64decode(response.json()["data"][0]["b64_json"])
    made = Image.open(io.BytesIO(drawn)).convert("RGB")
    assert made.getpixel((60, 60)) == (200, 30, 30)
    assert made.crop((0, 0, 24, 64)).getextrema() != ((200, 200), (30, 30), (30, 30))


def test_txt2img_answers_the_png(farm: RunningFarm) -> None:
    body = FOX | {"seed": 930}
    first, again = (post(farm, "/v1/txt2img", body, accept="image/png") for _ in "ab")

    assert (first.headers["content-type"], size_of(first.content)) == ("image/png", (64, 64))
    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert again.content == first.content


def test_the_infotexts_of_the_web_uis_dialect_stand_in_the_pictures(farm: RunningFarm) -> None:
    body = {"prompt": "a red fox", "width": 60, "height": 70, "steps": 2, "batch_size": 2}
    answer = post(farm, "/sdapi/v1/txt2img", body).json()

    pictures = [base64.b64decode(image) for image in answer["images"]]
    info = json.loads(answer["info"])
    assert [size_of(data) for data in pictures] == [(64, 64)] * 2
    assert [read_info(data)["parameters"] for data in pictures] == info["infotexts"]
    image = {"image": answer["images"][0]}
    assert post(farm, "/sdapi/v1/png-info", image).json()["info"] == info["infotexts"][0]


def test_the_web_uis_progress_and_interrupt(farm: RunningFarm) -> None:
    body = {"prompt": "a red fox", "width": 512, "height": 512, "steps": 100}
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, farm, "/sdapi/v1/txt2img", body)

        def state() -> dict[str, Any]:
            return dict(farm.get("/sdapi/v1/progress").json()["state"])

        wait_until(lambda: state()["sampling_steps"] == 100, 30, "for the job")
        assert post(farm, "/sdapi/v1/interrupt", {}).json() == {}
        answer = waiting.result(60)

    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "job_canceled")
    assert farm.get("/sdapi/v1/progress").json()["progress"] == 0.0


def test_a_client_that_gives_up_twice_and_asks_again_causes_one_render(farm: RunningFarm) -> None:
    body = {**FOX, "size": "256x256", "steps": 12}
    claimed = farm.total("claimed")
    blockers = [farm.post(SLOW).json()["id"] for _ in "ab"]  # both workers are busy
    wait_until(lambda: farm.total("claimed") == claimed + 2, 30, "for the blockers")

    for count in "01":
        try:
            httpx2.post(
                f"{farm.url}{GENERATIONS}", json=body, timeout=0.5,
                headers={"x-stainless-retry-count": count},
            )  # fmt: skip
            raise AssertionError("it was not blocked")
        except httpx2.ReadTimeout:
            pass
    freeing = threading.Timer(0.5, lambda: [farm.cancel(job) for job in blockers])
    freeing.start()
    answer = post(farm, GENERATIONS, body, x_stainless_retry_count="2")
    freeing.join()

    assert answer.status_code == 200, answer.text
    assert answer.headers["idempotent-replayed"] == "true"
    assert farm.total("claimed") == claimed + 3
