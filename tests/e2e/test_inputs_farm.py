"""A picture on the whole farm: sent, started from, repainted in part, seen on its way."""

from __future__ import annotations

import io
import json

import httpx2
from PIL import Image, ImageChops

from tests.e2e.farm import RunningFarm


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def photo() -> Image.Image:
    """240 x 160, so that it fills 96 x 64 by scaling alone."""
    red = Image.linear_gradient("L").resize((240, 160))
    return Image.merge("RGB", (red, red.rotate(180), Image.new("L", red.size, 90)))


def test_a_picture_is_sent_started_from_and_repainted_in_part(farm: RunningFarm) -> None:
    sent = httpx2.post(f"{farm.url}/inputs", content=png(photo()), timeout=30).json()
    assert (sent["width"], sent["height"]) == (240, 160)

    order = {"prompt": "a fox", "seed": 900, "steps": 10, "size": "96x64"}
    start = {"init_image": {"sha256": sent["sha256"]}, "strength": 0.3}
    first = farm.wait(farm.submit(**order, **start)["id"])

    assert first["status"] == "succeeded", first["error"]
    assert first["images"][0]["progress"] == {"step": 3, "steps": 3}
    with Image.open(io.BytesIO(farm.picture(first))) as picture:
        assert picture.size == (96, 64)
        drawn = picture.convert("RGB")
        made = json.loads(picture.info["renderfarm"])
    assert (made["mode"], made["init_image_sha256"]) == ("img2img", sent["sha256"])

    # The picture of the first job, its right half painted anew: the form's way.
    mask = Image.new("L", (96, 64), 0)
    mask.paste(255, (48, 0, 96, 64))
    answer = httpx2.post(
        f"{farm.url}/jobs",
        files={"mask_image": ("mask.png", png(mask))},
        data={"job": json.dumps({**order, "init_image": {"job": first["id"]}, "strength": 1})},
        timeout=30,
    )
    second = farm.wait(answer.json()["id"])

    assert second["status"] == "succeeded", second["error"]
    with Image.open(io.BytesIO(farm.picture(second))) as picture:
        difference = ImageChops.difference(picture.convert("RGB"), drawn)
    assert difference.crop((0, 0, 48, 64)).getbbox() is None, "what the mask keeps has changed"
    assert difference.crop((48, 0, 96, 64)).getbbox() is not None


def test_previews_are_heard_before_the_picture(farm: RunningFarm) -> None:
    order = {"prompt": "a fox", "seed": 901, "steps": 24, "size": "256x256", "partial_images": 2}
    job = farm.submit(**order)

    seen: list[tuple[str, dict[str, object]]] = []
    url = job["urls"]["events"]
    with httpx2.stream("GET", url, timeout=60) as stream:
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                seen.append((name, json.loads(line.removeprefix("data: "))))

    names = [name for name, _ in seen]
    previews = [data for name, data in seen if name == "image.preview"]
    assert names[-1] == "job.succeeded"
    assert [data["partial_image_index"] for data in previews] == [0, 1]
    assert str(previews[0]["b64_json"]).startswith("/9j/")  # JPEG
    assert names.index("image.preview") < names.index("image.succeeded")
