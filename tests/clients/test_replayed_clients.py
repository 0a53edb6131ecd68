"""The HTTP calls of programs that cannot run here, as their sources make them.

Each test sends what the program sends, in its order, and reads of the answer what the program reads.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from starlette.testclient import TestClient

from shared.settings import Settings
from tests.api_kit import Farm
from tests.painting import painting

SMALL = {"width": 64, "height": 64}


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    farm = Farm(Settings(api_keys="alice:k1"))
    with painting(farm):
        yield farm


@pytest.fixture(scope="module")
def client(farm: Farm) -> TestClient:
    return farm.client()


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


BEARER = {"Authorization": "Bearer k1"}


def picture(b64: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64)))


# ------------------------------------------------------------------------------------ Open WebUI


def test_open_webui_with_the_openai_engine(client: TestClient) -> None:
    body = {"model": "dall-e-2", "prompt": "a fox", "n": 1, "size": "64x64"}
    path = "/v1/images/generations?api-version=2025-04-01-preview"

    answer = client.post(path, json=body | {"response_format": "b64_json"}, headers=BEARER).json()

    (image,) = answer["data"]
    assert image.get("url", None) is None
    assert picture(image["b64_json"]).size == (64, 64)


def test_open_webui_with_a_model_that_takes_no_response_format(client: TestClient) -> None:
    body = {"model": "gpt-image-1", "prompt": "a fox", "n": 1, "size": "auto"}

    (image,) = client.post("/v1/images/generations", json=body, headers=BEARER).json()["data"]

    assert "url" not in image
    assert picture(image["b64_json"])


def test_open_webui_fetches_a_url_with_its_own_key_and_looks_at_the_type(
    client: TestClient,
) -> None:
    body = {"model": "dall-e-3", "prompt": "a fox", "n": 1, "size": "64x64"}
    (image,) = client.post("/v1/images/generations", json=body, headers=BEARER).json()["data"]

    fetched = client.get(image["url"], headers=BEARER)

    assert fetched.headers["content-type"].split("/")[0] == "image"


def test_open_webui_with_the_automatic1111_engine(client: TestClient) -> None:
    auth = {"authorization": basic("user:k1")["Authorization"]}
    models = client.get("/sdapi/v1/sd-models", headers=auth).json()
    names = [{"id": model["title"], "name": model["model_name"]} for model in models]
    options = client.get("/sdapi/v1/options", headers=auth).json()
    options["sd_model_checkpoint"] = names[0]["id"]
    assert client.post("/sdapi/v1/options", json=options, headers=auth).status_code == 200

    body = {"prompt": "a fox", "batch_size": 2, **SMALL, "steps": 4, "negative_prompt": "fog",
            "cfg_scale": 4.0, "sampler_name": "Euler", "scheduler": "Simple"}  # fmt: skip
    answer = client.post("/sdapi/v1/txt2img", json=body, headers=auth).json()

    assert [picture(image).size for image in answer["images"]] == [(64, 64)] * 2
    assert json.loads(answer["info"])["prompt"] == "a fox"


def test_open_webui_without_a_password_on_an_open_farm() -> None:
    client = Farm().client()

    assert client.get("/sdapi/v1/options", headers={"authorization": ""}).status_code == 200


# ----------------------------------------------------------------------------------- SillyTavern


def test_sillytavern_with_stable_diffusion_webui(client: TestClient) -> None:
    auth = basic("any:k1")
    sdapi = "/sdapi/v1"
    assert client.get(f"{sdapi}/options", headers=auth).status_code == 200
    for path, key in (
        ("upscalers", "name"), ("latent-upscale-modes", "name"), ("sd-vae", "model_name"),
        ("sd-modules", "model_name"), ("samplers", "name"), ("schedulers", "name"),
    ):  # fmt: skip
        found = client.get(f"{sdapi}/{path}", headers=auth).json()
        assert all(row[key] for row in found), path
    titles = [row["title"] for row in client.get(f"{sdapi}/sd-models", headers=auth).json()]
    chosen = {"sd_model_checkpoint": titles[0]}
    assert client.post(f"{sdapi}/options", json=chosen, headers=auth).status_code == 200
    state = client.get(f"{sdapi}/progress", headers=auth).json()
    assert (state["progress"], state["state"]["job_count"]) == (0.0, 0)
    options = client.get(f"{sdapi}/options", headers=auth).json()
    assert (options["sd_model_checkpoint"], "forge_preset" in options) == (titles[0], False)

    body = {
        "url": "http://farm.test", "auth": "any:k1", "prompt": "a fox", "negative_prompt": "fog",
        "sampler_name": "Euler", "scheduler": "simple", "steps": 4, "cfg_scale": 4.5, **SMALL,
        "restore_faces": False, "enable_hr": False, "hr_upscaler": None, "hr_scale": 1,
        "denoising_strength": 0.7, "hr_second_pass_steps": 0, "seed": None, "clip_skip": 1,
        "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": None},
        "override_settings_restore_afterwards": True, "save_images": True, "send_images": True,
        "do_not_save_grid": False, "do_not_save_samples": False,
    }  # fmt: skip
    response = client.post(f"{sdapi}/txt2img", json=body, headers=auth)

    assert picture(response.json()["images"][0]).size == (64, 64)
    assert "k1" not in response.text  # it sends its password in the body as well
    interrupted = client.post(f"{sdapi}/interrupt", headers=auth)
    assert (interrupted.status_code, interrupted.json()) == (200, {})


@pytest.mark.parametrize("authorization", ["Basic ", "Basic Og=="])
def test_sillytavern_without_a_password_on_an_open_farm(authorization: str) -> None:
    headers = {"Authorization": authorization}
    assert Farm().client().get("/sdapi/v1/options", headers=headers).status_code == 200


def test_sillytavern_with_a_server_of_openais_kind(client: TestClient) -> None:
    assert client.options("/v1/images/generations").is_success
    body = {"model": "stablediffusion", "prompt": "a fox", "n": 1, "size": "64x64",
            "response_format": "b64_json"}  # fmt: skip

    answer = client.post("/v1/images/generations", json=body, headers=BEARER).json()

    assert picture(answer["data"][0]["b64_json"]).size == (64, 64)


# ------------------------------------------------------------------------------------- LibreChat


def test_librechats_dalle_tool_takes_the_file_type_from_the_url(client: TestClient) -> None:
    body = {"model": "dall-e-3", "quality": "standard", "style": "vivid", "size": "64x64",
            "prompt": "a fox", "n": 1}  # fmt: skip
    headers = BEARER | {"x-stainless-retry-count": "0", "x-stainless-timeout": "600"}

    answer = client.post("/v1/images/generations", json=body, headers=headers).json()

    url = answer["data"][0]["url"]
    assert re.search(r"/[^/]+\.(png|jpe?g|webp)$", urlsplit(url).path)
    assert client.get(url).status_code == 200


def test_librechats_image_tool_reads_base64(client: TestClient) -> None:
    body = {"model": "gpt-image-1", "prompt": "a fox", "n": 1, "background": "auto",
            "quality": "auto", "size": "auto", "output_format": "png", "user": "u1"}  # fmt: skip

    answer = client.post("/v1/images/generations", json=body, headers=BEARER).json()

    assert picture(answer["data"][0]["b64_json"])


def test_librechats_image_tool_edits_with_a_list_of_files(client: TestClient) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    fields = {"model": "gpt-image-1", "prompt": "a fox", "quality": "auto", "size": "auto"}
    files = [("image[]", (f"{k}.png", file.getvalue(), "image/png")) for k in "ab"]

    response = client.post("/v1/images/edits", data=fields, files=files, headers=BEARER)

    assert response.status_code == 200, response.text
    assert picture(response.json()["data"][0]["b64_json"])


def test_librechats_stable_diffusion_tool_sends_no_key() -> None:
    farm = Farm()
    payload = {"prompt": "a fox", "negative_prompt": "fog", "cfg_scale": 4.5, "steps": 22, **SMALL}
    with painting(farm):
        answer = farm.client().post("/sdapi/v1/txt2img", json=payload).json()

    info = json.loads(answer["info"])
    assert picture(answer["images"][0].split(",", 1)[0]).size == (info["width"], info["height"])
    assert isinstance(info["seed"], int)
    assert "Steps: 22" in info["infotexts"][0].split("\n")[-1]


# ------------------------------------------------------------------------------------------- n8n


@pytest.mark.parametrize("model", ["dall-e-2", "gpt-image-1"])
def test_n8ns_openai_node(client: TestClient, model: str) -> None:
    body: dict[str, Any] = {"prompt": "a fox", "model": model, "n": 1, "size": "64x64"}
    if model.startswith("dall-e"):
        body["response_format"] = "b64_json"

    answer = client.post("/v1/images/generations", json=body, headers=BEARER).json()

    assert [picture(row["b64_json"]).size for row in answer["data"]] == [(64, 64)]


# ------------------------------------------------------------------------------------- Nextcloud


def test_nextcloud_asks_with_a_model_that_nobody_has(client: TestClient) -> None:
    body = {"prompt": "a", "model": "invalid-model"}

    response = client.post("/v1/images/generations", json=body, headers=BEARER)

    assert response.status_code == 400  # 404 would mean that there is no such service
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("wanted", ["url", "b64_json"])
def test_nextcloud_takes_each_form_of_a_picture_once(client: TestClient, wanted: str) -> None:
    body = {"prompt": "a fox", "size": "64x64", "n": 2, "model": "Default", "user": "u1",
            "response_format": wanted}  # fmt: skip

    answer = client.post("/v1/images/generations", json=body, headers=BEARER).json()

    found = [row.get("url") or row.get("b64_json") for row in answer["data"]]
    both = [row for row in answer["data"] if "url" in row and "b64_json" in row]
    assert len(found) == 2
    assert both == []
