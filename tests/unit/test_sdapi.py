"""The web UI AUTOMATIC1111's dialect over HTTP, on a store in memory and a worker in a thread."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from shared.images import PictureInfo, encode_png
from shared.jobs import JobStatus
from shared.results.inputs import Inputs
from shared.settings import Settings
from tests.api_kit import LARGE, TINY, Farm
from tests.orders import spec
from tests.painting import painting, ready

FOX = {"prompt": "a red fox", "negative_prompt": "fog", "seed": 42, "steps": 4, "width": 64,
       "height": 64}  # fmt: skip
KEYS = Settings(api_keys="alice:k1 bob:k2")


@pytest.fixture
def farm() -> Farm:
    return Farm()


@pytest.fixture(scope="module")
def quiet() -> TestClient:
    """Of a farm that only refuses: the tests of refusals share it."""
    return Farm().client()


@pytest.fixture(scope="module")
def keyed() -> TestClient:
    return Farm(KEYS).client()


@pytest.fixture
def client(farm: Farm) -> TestClient:
    return farm.client()


def picture(mode: str = "RGB") -> str:
    file = io.BytesIO()
    Image.new(mode, (64, 64), 128).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_the_answer_of_txt2img(farm: Farm, client: TestClient) -> None:
    with painting(farm):
        response = client.post("/sdapi/v1/txt2img", json=FOX | {"batch_size": 2, "tiling": True})

    answer = response.json()
    info = json.loads(answer["info"])
    assert response.status_code == 200
    assert response.headers["x-ignored-params"] == "tiling"
    assert set(answer) == {"images", "parameters", "info"}
    assert len(answer["images"]) == 2
    assert base64.b64decode(answer["images"][0]).startswith(b"\x89PNG")
    assert answer["parameters"]["batch_size"] == 2
    assert (info["prompt"], info["seed"], info["all_seeds"]) == ("a red fox", 42, [42, 43])
    assert (info["width"], info["height"], info["steps"]) == (64, 64, 4)
    assert [text.count("Seed: ") for text in info["infotexts"]] == [1, 1]
    assert info["infotexts"][1].startswith("a red fox\nNegative prompt: fog\nSteps: 4, ")
    assert "Seed: 43" in info["infotexts"][1]


def test_img2img_starts_from_the_picture(farm: Farm, client: TestClient) -> None:
    body = FOX | {"init_images": [f"data:image/png;base64,{picture()}"]}
    with painting(farm) as claims:
        plain = client.post("/sdapi/v1/img2img", json=body | {"denoising_strength": 0.5})
        masked = client.post(
            "/sdapi/v1/img2img",
            json=body | {"mask": picture("L"), "inpainting_mask_invert": 1},
        )

    assert (plain.status_code, masked.status_code) == (200, 200), (plain.text, masked.text)
    assert (claims[0].spec.strength, claims[1].spec.strength) == (0.5, 0.75)
    assert claims[0].spec.init_image_sha256 == claims[1].spec.init_image_sha256
    mask = Inputs(farm.results).renew("anonymous", claims[1].spec.mask_image_sha256)
    assert Image.open(io.BytesIO(mask)).getpixel((0, 0)) == 127
    assert "init_images" not in plain.json()["parameters"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "missing_field", "init_images"),
        ({"init_images": ["%%%"]}, "invalid_image", "init_images/0"),
        ({"init_images": ["AAAA"]}, "invalid_image", "init_images/0"),
        ({"init_images": [picture()], "mask": "%"}, "invalid_image", "mask"),
        (
            {"init_images": [picture()], "denoising_strength": 2},
            "invalid_value",
            "denoising_strength",
        ),
        ({"init_images": [picture()], "batch_size": 11}, "invalid_value", "batch_size"),
    ],
)
def test_bad_input_is_named_as_it_was_spelled(
    quiet: TestClient, body: dict[str, Any], code: str, param: str
) -> None:
    response = quiet.post("/sdapi/v1/img2img", json=FOX | body)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)


def test_it_says_when_nobody_can_draw(quiet: TestClient) -> None:
    response = quiet.post("/sdapi/v1/txt2img", json=FOX)

    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_not_ready")


def test_the_lists(quiet: TestClient) -> None:
    models = quiet.get("/sdapi/v1/sd-models").json()

    assert [set(model) for model in models] == [
        {"title", "model_name", "hash", "sha256", "filename", "config"}
    ] * 2
    assert models[0]["title"] == f"tiny [{TINY.digest[:10]}]"
    assert quiet.get("/sdapi/v1/samplers").json()[0]["name"] == "Euler"
    assert quiet.get("/sdapi/v1/schedulers").json()[0]["name"] == "simple"
    for name in ("upscalers", "latent-upscale-modes", "sd-vae", "sd-modules", "loras"):
        assert quiet.get(f"/sdapi/v1/{name}").json() == []


# ------------------------------------------------------------------------------ owners and keys


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer k1", 200),
        ("Basic " + base64.b64encode(b"anybody:k1").decode(), 200),
        ("Basic " + base64.b64encode(b":k1").decode(), 200),
        ("Basic " + base64.b64encode(b"k1:wrong").decode(), 401),
        ("Basic " + base64.b64encode(b":").decode(), 401),
        ("Basic " + base64.b64encode(b"\xff").decode(), 401),
        ("Basic ???", 401),
        ("Bearer ", 401),
        (None, 401),
    ],
)
def test_the_key_is_a_bearer_token_or_a_password(
    keyed: TestClient, authorization: str | None, status: int
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    response = keyed.get("/sdapi/v1/options", headers=headers)

    assert response.status_code == status


@pytest.mark.parametrize("blank", ["Basic Og==", "Bearer "])
def test_blank_credentials_count_as_none_on_an_open_farm(quiet: TestClient, blank: str) -> None:
    headers = {"Authorization": blank}
    assert quiet.get("/sdapi/v1/options", headers=headers).status_code == 200


def test_the_chosen_model_is_remembered_per_owner() -> None:
    farm = Farm(KEYS)
    alice, bob = farm.client("k1"), farm.client("k2")
    chosen = alice.get("/sdapi/v1/sd-models").json()[1]["title"]

    assert alice.post("/sdapi/v1/options", json={"sd_model_checkpoint": chosen}).status_code == 200

    assert alice.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == chosen
    assert bob.get("/sdapi/v1/options").json()["sd_model_checkpoint"].startswith("tiny ")
    prompt = {"prompt": "a red fox"}
    refused = alice.post("/sdapi/v1/txt2img", json=prompt).json()["detail"]
    assert refused == "large is not ready: no worker is running"
    own = {"override_settings": {"sd_model_checkpoint": "tiny"}}
    assert "tiny is not" in alice.post("/sdapi/v1/txt2img", json=FOX | own).json()["detail"]
    assert chosen == f"large [{LARGE.digest[:10]}]"


@pytest.mark.parametrize(
    ("name", "code"),
    [("nobody", "model_not_found"), (5, "invalid_value"), (["x"], "invalid_value")],
)
def test_a_model_that_is_not_there_cannot_be_chosen(
    quiet: TestClient, name: object, code: str
) -> None:
    response = quiet.post("/sdapi/v1/options", json={"sd_model_checkpoint": name})

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, code)
    assert error["param"] == "sd_model_checkpoint"


def test_options_that_are_not_ours_are_named(quiet: TestClient) -> None:
    response = quiet.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2})

    assert response.headers["x-ignored-params"] == "CLIP_stop_at_last_layers"


# -------------------------------------------------------------------------- progress, interrupt


def held(farm: Farm, key: str, n: int = 1) -> str:
    """An A1111 order of this owner that nobody draws: its client has left."""
    client = farm.client(key)
    ready(farm)
    response = client.post(
        "/sdapi/v1/txt2img", json=FOX | {"batch_size": n, "seed": -1},
        headers={"x-stainless-read-timeout": "0.01"},
    )  # fmt: skip
    assert response.status_code == 504, response.text
    return str(response.json()["job_id"])


def test_no_job_has_no_progress(quiet: TestClient) -> None:
    answer = quiet.get("/sdapi/v1/progress").json()

    assert (answer["progress"], answer["current_image"]) == (0.0, None)
    assert quiet.post("/sdapi/v1/interrupt").json() == {}


def test_progress_and_interrupt_are_of_the_callers_newest_job_only() -> None:
    farm = Farm(KEYS)
    ready(farm)
    order = {**FOX, "n": 2, "steps": 4}
    jobs = {}
    for name, key in (("alice", "k1"), ("bob", "k2")):
        job = farm.client(key).post("/jobs", json=order | {"seed": len(name)}).json()
        farm.store.note(name, "a1111_job", job["id"])
        jobs[name] = job["id"]
    claimed = farm.claim()
    assert claimed is not None
    farm.finish(claimed)
    claimed = farm.claim()
    assert claimed is not None
    farm.store.renew({claimed.token: (claimed.render_id, 2)}, 60.0)

    shown = {name: farm.client(key).get("/sdapi/v1/progress").json()
             for name, key in (("alice", "k1"), ("bob", "k2"))}  # fmt: skip
    assert {name: round(s["progress"], 2) for name, s in shown.items()} in (
        {"alice": 0.75, "bob": 0.0}, {"alice": 0.5, "bob": 0.25}, {"alice": 0.0, "bob": 0.75},
        {"alice": 0.25, "bob": 0.5},
    )  # fmt: skip
    assert sum(bool(s["current_image"]) for s in shown.values()) == 1
    quiet = farm.client("k1").get("/sdapi/v1/progress?skip_current_image=true").json()
    assert quiet["current_image"] is None
    assert shown["alice"]["state"]["job_count"] == 2

    assert farm.client("k2").post("/sdapi/v1/interrupt").json() == {}
    assert farm.store.get(jobs["bob"]).cancel_requested_at is not None
    assert farm.store.get(jobs["alice"]).cancel_requested_at is None


def test_progress_tells_how_long_it_will_take() -> None:
    farm = Farm()
    ready(farm)
    job = farm.client().post("/jobs", json=FOX | {"n": 2}).json()
    farm.store.note("anonymous", "a1111_job", job["id"])
    claimed = farm.claim()
    assert claimed is not None
    farm.finish(claimed, device_s=20.0)

    eta_s = farm.client().get("/sdapi/v1/progress").json()["eta_relative"]

    assert eta_s == farm.client().get(f"/jobs/{job['id']}").json()["eta_s"] > 0


def test_an_order_becomes_the_newest_job() -> None:
    farm = Farm(Settings(api_keys="alice:k1 bob:k2", sync_wait_s=0.05))
    job_id = held(farm, "k1")

    assert farm.store.notes("alice")["a1111_job"] == job_id
    assert farm.store.get(job_id).status is JobStatus.canceled
    assert farm.client("k1").get("/sdapi/v1/progress").json()["progress"] == 0.0


@pytest.mark.parametrize("width", [10**400, -(10**400)])
def test_a_side_of_hundreds_of_digits_is_refused(quiet: TestClient, width: int) -> None:
    order = {"prompt": "a fox", "width": width}

    response = quiet.post("/sdapi/v1/txt2img", content=json.dumps(order).encode())

    assert (response.status_code, response.json()["error"]["param"]) == (400, "width")


# ------------------------------------------------------------------------------------- png-info


def test_a_picture_is_read(quiet: TestClient) -> None:
    made = spec(seed=7, negative_prompt="fog")
    png = encode_png(bytes(64 * 64 * 3), 64, 64, PictureInfo.of(made, "f" * 64))

    answer = quiet.post("/sdapi/v1/png-info", json={"image": base64.b64encode(png).decode()}).json()

    assert answer["info"].startswith("a lighthouse at dusk\nNegative prompt: fog\nSteps: 4")
    assert answer["parameters"]["Seed"] == "7"
    assert answer["parameters"]["prompt"] == "a lighthouse at dusk"
    assert answer["items"]["renderfarm"]["fingerprint"] == "f" * 64


def test_a_picture_without_texts(quiet: TestClient) -> None:
    answer = quiet.post("/sdapi/v1/png-info", json={"image": picture()}).json()

    assert answer == {"info": "", "items": {}, "parameters": {}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_field"),
        ({"image": "%"}, "invalid_image"),
        ({"image": "AAAA"}, "invalid_image"),
    ],
)
def test_what_is_no_picture_is_refused(quiet: TestClient, body: dict[str, str], code: str) -> None:
    response = quiet.post("/sdapi/v1/png-info", json=body)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, "image")


@pytest.mark.parametrize("side", [10**400, -(10**400)], ids=["positive", "negative"])
def test_a_side_that_no_float_holds_is_refused_by_name(quiet: TestClient, side: int) -> None:
    refused = quiet.post("/sdapi/v1/txt2img", json=FOX | {"width": side})

    assert refused.status_code == 400
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == (
        "invalid_size",
        "width",
    )
