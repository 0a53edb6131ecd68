"""Input pictures over HTTP: how an order may name one, who may, and what is refused."""

from __future__ import annotations

import base64
import io
import json
from datetime import date, timedelta
from threading import BoundedSemaphore
from typing import Any

import pytest
from PIL import Image
from pydantic import SecretStr

import api.inputs
from shared.catalog import Catalog
from shared.models import ModelEntry
from shared.results.inputs import Inputs
from shared.settings import Settings
from tests.api_kit import CATALOG, TINY, Farm

FOX = {"prompt": "a red fox", "seed": 42, "steps": 10, "size": "64x64"}
KEYS = Settings(api_keys=SecretStr("alice:a-key bob:b-key root:r-key:admin"))


def picture(colour: str = "navy", size: tuple[int, int] = (32, 16), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def farm() -> Farm:
    return Farm(KEYS)


@pytest.fixture
def alice(farm: Farm) -> Any:
    return farm.client("a-key")


@pytest.fixture
def bob(farm: Farm) -> Any:
    return farm.client("b-key")


def taken(client: Any, **fields: Any) -> dict[str, Any]:
    answer = client.post("/jobs", json=FOX | fields)
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


def refused(answer: Any, code: str, field: str | None = None, status: int = 400) -> str:
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (status, code), body
    if field:
        assert body["errors"][0]["pointer"] == f"#/{field}"
    return str(body["detail"])


def sent(client: Any, data: bytes, **query: str) -> str:
    answer = client.post(
        "/inputs", content=data, headers={"Content-Type": "image/png"}, params=query
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sha256"])


# ------------------------------------------------------------------------------ how it may be named


def test_an_order_shows_its_pictures_by_their_names(farm: Farm, alice: Any) -> None:
    job = taken(alice, init_image=b64(picture()), mask_image=b64(picture("white")))

    init, mask = job["input"]["init_image"], job["input"]["mask_image"]
    assert (init["width"], init["height"]) == (mask["width"], mask["height"]) == (32, 16)
    assert job["input"]["strength"] == 0.6
    claim = farm.claim()
    assert claim is not None
    assert claim.spec.init_image_sha256 == init["sha256"] != mask["sha256"]
    assert claim.spec.mask_image_sha256 == mask["sha256"]
    kept = Image.open(io.BytesIO(Inputs(farm.results).get(init["sha256"])))
    assert (kept.mode, kept.size, kept.getpixel((0, 0))) == ("RGB", (32, 16), (0, 0, 128))
    assert Image.open(io.BytesIO(Inputs(farm.results).get(mask["sha256"]))).mode == "L"


def test_the_same_picture_in_every_way_is_the_same_render(farm: Farm, alice: Any) -> None:
    data = picture()
    sha256 = sent(alice, picture(kind="PNG"))
    ways: list[Any] = [
        b64(data),
        "\n".join(b64(data)[k : k + 60] for k in range(0, len(b64(data)), 60)),
        f"data:image/png;base64,{b64(data)}",
        f"data:text/html;base64,{b64(data)}",  # what it is called does not matter
        {"sha256": sha256},
    ]

    renders = {taken(alice, init_image=way)["images"][0]["fingerprint"] for way in ways}
    renders.add(as_form(alice, files={"init_image": ("a.png", data)})["images"][0]["fingerprint"])

    assert len(renders) == 1
    assert farm.pending == 1


def as_form(client: Any, files: dict[str, Any], **fields: str) -> dict[str, Any]:
    answer = client.post(
        "/jobs", files=files, data={**{k: str(v) for k, v in FOX.items()}, **fields}
    )
    assert answer.status_code in (200, 202), answer.text
    return dict(answer.json())


def test_a_finished_picture_of_ones_own_may_be_the_start(farm: Farm, alice: Any) -> None:
    first = taken(alice, n=2)
    pngs = [farm.render(), farm.render()]

    second = taken(alice, init_image={"job": first["id"], "index": 1}, strength=0.3)

    named = second["input"]["init_image"]
    start = Image.open(io.BytesIO(Inputs(farm.results).get(named["sha256"])))
    assert start.tobytes() == Image.open(io.BytesIO(pngs[1])).tobytes()
    assert taken(alice, init_image={"job": first["id"]})["input"]["init_image"] != named


def test_a_form_may_hold_the_order_as_fields_or_as_a_part(alice: Any) -> None:
    files = {"init_image": ("a.png", picture()), "mask_image": ("m.png", picture("white"))}
    as_fields = as_form(alice, files, metadata='{"a": "1"}', guidance_scale="3", prompt="1")
    order = FOX | {"metadata": {"a": "1"}, "guidance_scale": 3, "prompt": "1"}
    part = ("", json.dumps(order), "application/json")
    as_part = alice.post("/jobs", files=files | {"job": part}).json()
    as_file = alice.post("/jobs", files=files | {"job": ("order.json", json.dumps(order))}).json()

    assert as_fields["input"] == as_part["input"] == as_file["input"]
    assert (as_fields["input"]["prompt"], as_fields["metadata"]) == ("1", {"a": "1"})
    assert as_fields["input"]["mask_image"]["width"] == 32


def test_a_mask_that_was_sent_as_a_picture_is_read_as_a_mask(farm: Farm, alice: Any) -> None:
    white = picture("white")
    sha256 = sent(alice, white)

    job = taken(alice, init_image=b64(picture()), mask_image={"sha256": sha256})

    mask = job["input"]["mask_image"]["sha256"]
    assert mask != sha256
    assert mask == sent(alice, white, role="mask")


# ------------------------------------------------------------------------------------ what follows


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((256, 256), (256, 256)), ((4000, 2000), (368, 176)), ((600, 800), (224, 288)), ((9, 900), (64, 1024))],
)  # fmt: skip
def test_without_a_size_the_picture_gives_the_shape(
    alice: Any, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    order = {"prompt": "a", "init_image": b64(picture(size=size))}

    made = alice.post("/jobs", json=order).json()["input"]

    assert (made["width"], made["height"]) == wanted


def test_every_shape_gives_a_size_that_the_model_draws() -> None:
    for entry in CATALOG.entries.values():
        for width in (1, 3, 100, 4000, 16_000):
            for height in (1, 7, 999, 4000):
                wide, tall = entry.size_like(width, height)
                assert wide % 16 == tall % 16 == 0
                assert entry.min_side_px <= min(wide, tall)
                assert max(wide, tall) <= entry.max_side_px
                assert wide * tall <= entry.max_pixels


@pytest.mark.parametrize(
    ("strength", "steps"), [(1, 10), (0.99, 10), (0.6, 6), (0.3, 3), (0.05, 1), (1e-30, 1)]
)
def test_strength_decides_how_many_steps_are_run(
    farm: Farm, alice: Any, strength: float, steps: int
) -> None:
    job = taken(alice, init_image=b64(picture()), strength=strength)

    assert job["images"][0]["progress"] == {"step": 0, "steps": steps}
    claim = farm.claim()
    assert claim is not None
    assert (claim.spec.steps, claim.spec.steps_to_run) == (10, steps)


def test_fewer_steps_are_predicted_to_cost_less(farm: Farm, alice: Any) -> None:
    costs = []
    for strength in (0.2, 1.0):
        taken(alice, init_image=b64(picture()), strength=strength)
        ledger = farm.store._ledger
        costs.append(max(entry.cost for entry in ledger.renders.values()))

    assert costs[0] * 3 < costs[1]


def test_the_same_key_and_picture_is_the_same_order(farm: Farm, alice: Any) -> None:
    key = {"Idempotency-Key": "k"}
    first = alice.post("/jobs", json=FOX | {"init_image": b64(picture())}, headers=key)
    again = alice.post("/jobs", json=FOX | {"init_image": b64(picture(kind="PNG"))}, headers=key)
    other = alice.post("/jobs", json=FOX | {"init_image": b64(picture("red"))}, headers=key)

    assert again.json()["id"] == first.json()["id"]
    refused(other, "idempotency_key_reused", status=422)


def test_a_retried_job_keeps_its_pictures_fresh(farm: Farm, alice: Any) -> None:
    job = taken(alice, init_image=b64(picture()))
    farm.fail()
    [name] = farm.results.objects
    old = name.replace(Inputs(farm.results)._today().isoformat(), "2020-01-01")
    farm.results.objects[old] = farm.results.objects.pop(name)

    retried = alice.post(f"/jobs/{job['id']}/retry").json()

    assert retried["input"] == job["input"]
    assert set(farm.results.objects) == {old, name}


# ---------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("https://example.org/cat.png", "is not fetched here: send the picture itself"),
        ("file:///etc/passwd", "is not fetched here: send the picture itself"),
        ("s3://bucket/key", "is not fetched here: send the picture itself"),
        ("data:image/png,abc", "data: URL must"),
        ("data:image/png;base64", "data: URL must"),
        ("not base64!", "must be base64"),
        ("", "must be a PNG, JPEG or WebP"),
        (b64(b"GIF89a" + b"\0" * 99), "must be a PNG, JPEG or WebP"),
        (b64(picture()[:60]), "damaged or cut off"),
        (b64(picture()[:20]), "cut off"),
        ("A" * (31 * 2**20), "20 MiB"),
        (True, "must be base64"),
        ([], "must be base64"),
        ({}, "must be base64"),
        ({"job": "nope"}, "must be base64"),
        ({"job": "job_1", "index": -1}, "must be base64"),
        ({"job": "job_1", "index": True}, "must be base64"),
        ({"job": "job_1", "colour": 1}, "must be base64"),
        ({"job": "job_01K0000000000000000000000A"}, "no such job"),
        ({"sha256": "../../../../etc/passwd"}, "must be base64"),
        ({"sha256": "a1" * 32}, "no input of this sha256"),
        ({"url": "http://127.0.0.1/"}, "must be base64"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_field(
    farm: Farm, alice: Any, value: Any, told: str
) -> None:
    answer = alice.post("/jobs", json=FOX | {"init_image": value})

    assert told in refused(answer, "invalid_image", "init_image")
    assert len(answer.content) < 2000
    assert farm.pending == 0
    assert farm.results.objects == {}


def test_a_mask_must_be_as_large_as_its_picture(alice: Any) -> None:
    order = FOX | {"init_image": b64(picture()), "mask_image": b64(picture("white", (8, 8)))}

    told = refused(alice.post("/jobs", json=order), "invalid_image", "mask_image")

    assert "8 x 8" in told
    assert "32 x 16" in told


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, "0.5", True])
def test_strength_is_over_0_to_1(alice: Any, strength: Any) -> None:
    order = FOX | {"init_image": b64(picture()), "strength": strength}

    refused(alice.post("/jobs", json=order), "invalid_value", "strength")


def test_a_bad_picture_is_not_said_to_be_missing(alice: Any) -> None:
    answer = alice.post("/jobs", json=FOX | {"init_image": "!", "strength": 0.5})

    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["#/init_image"]


def test_a_model_that_cannot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ModelEntry(**{**TINY.model_dump(), "modes": ("txt2img", "img2img")})
    monkeypatch.setattr("tests.api_kit.CATALOG", Catalog([entry], "tiny"))
    client = Farm().client()
    order = FOX | {"init_image": b64(picture())}

    assert client.post("/jobs", json=order).status_code == 202
    masked = client.post("/jobs", json=order | {"mask_image": b64(picture("white"))})
    refused(masked, "unsupported_for_model", "mask_image")


@pytest.mark.parametrize(
    ("files", "fields", "code", "field"),
    [
        ({"init_image": b"hi"}, {}, "invalid_image", "init_image"),
        ({"prompt": b"hi"}, {}, "invalid_value", "prompt"),
        ({"image": picture()}, {}, "invalid_value", "image"),
        ({"init_image": picture()}, {"steps": "many"}, "invalid_value", "steps"),
        ({"init_image": picture()}, {"nonsense": "1"}, "unknown_field", "nonsense"),
        ({"init_image": picture()}, {"seed": ["1", "2"]}, "invalid_value", "seed"),
        ({"init_image": picture()}, {"job": "{"}, "invalid_json", None),
        ({"init_image": picture()}, {"job": "[]"}, "invalid_json", None),
        ({"init_image": b"\0" * (20 * 2**20 + 1)}, {}, "invalid_image", "init_image"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_bad_form_is_refused_by_its_field(
    farm: Farm, alice: Any, files: Any, fields: Any, code: str, field: str | None
) -> None:
    answer = alice.post("/jobs", files=files, data={"prompt": "a", **fields})

    refused(answer, code, field)
    assert farm.pending == 0


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"nonsense"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\n\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx"),
    ],
)
def test_a_form_that_is_none_is_refused(alice: Any, kind: str, body: bytes) -> None:
    answer = alice.post("/jobs", content=body, headers={"Content-Type": kind})

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_when_many_pictures_are_being_read_the_next_comes_again_later(
    alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = BoundedSemaphore(1)
    full.acquire()
    monkeypatch.setattr(api.inputs, "TAKEN_IN", full)

    answer = alice.post("/jobs", json=FOX | {"init_image": b64(picture())})

    refused(answer, "inputs_busy", status=503)
    assert answer.headers["retry-after"] == "2"


# ------------------------------------------------------------------------------------ /inputs, owners


@pytest.mark.parametrize("path", ["/inputs", "/v1/inputs"])
def test_a_picture_sent_ahead_is_fetched_as_it_is_kept(alice: Any, path: str) -> None:
    raw = alice.post(path, content=picture(kind="WEBP"), headers={"Content-Type": "image/webp"})
    form = alice.post(path, files={"image": ("a.webp", picture(kind="WEBP"))})

    assert raw.json() == form.json()
    assert (raw.status_code, raw.json()["width"], raw.json()["height"]) == (201, 32, 16)
    assert raw.headers["location"] == f"http://testserver{path}/{raw.json()['sha256']}".replace(
        "testserver", "farm.test"
    )
    fetched = alice.get(raw.headers["location"])
    assert fetched.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(fetched.content)).size == (32, 16)
    known = alice.get(raw.headers["location"], headers={"If-None-Match": fetched.headers["etag"]})
    assert known.status_code == 304
    assert alice.head(raw.headers["location"]).status_code == 200


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "image/png", 400, "invalid_image"),
        (b"hi", "application/octet-stream", 400, "invalid_image"),
        (b"hi", "application/json", 415, "unsupported_media_type"),
        (b"--b--", "multipart/form-data; boundary=b", 400, "missing_field"),
    ],
)
def test_what_is_no_picture_is_not_stored(
    farm: Farm, alice: Any, content: bytes, kind: str, status: int, code: str
) -> None:
    answer = alice.post("/inputs", content=content, headers={"Content-Type": kind})

    refused(answer, code, status=status)
    assert farm.results.objects == {}


def test_anothers_pictures_do_not_exist(farm: Farm, alice: Any, bob: Any) -> None:
    sha256 = sent(alice, picture())
    job = taken(alice)
    farm.render()
    root = farm.client("r-key")

    for stranger in (bob, root):
        refused(stranger.get(f"/inputs/{sha256}"), "input_not_found", status=404)
        for reference in ({"sha256": sha256}, {"job": job["id"]}):
            order = FOX | {"init_image": reference}
            refused(stranger.post("/jobs", json=order), "invalid_image", "init_image")
    assert farm.client().get(f"/inputs/{sha256}").status_code == 401

    assert sent(bob, picture()) == sha256  # whoever has the picture may use it
    assert bob.get(f"/inputs/{sha256}").status_code == 200


@pytest.mark.parametrize("name", ["x", "..%2f..%2fetc", "A1" * 32, "a1" * 31])
def test_a_name_that_is_none_is_not_found(alice: Any, name: str) -> None:
    assert alice.get(f"/inputs/{name}").status_code == 404


def test_a_picture_that_is_used_again_is_put_again_on_another_day(farm: Farm) -> None:
    today = date(2026, 1, 5)
    inputs = Inputs(farm.results, lambda: today)
    inputs.put("alice", "a1" * 32, b"png")
    today += timedelta(days=1)

    inputs.renew("alice", "a1" * 32)
    inputs.renew("alice", "a1" * 32)

    assert len(farm.results.objects) == 2
