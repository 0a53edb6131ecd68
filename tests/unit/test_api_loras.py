"""LoRAs, skip-layer guidance and presets in orders: what is taken, refused, shown and kept apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from api.app import create_app
from cli.main import main
from renderfarm_client import Client
from shared.catalog import Catalog
from shared.images import PictureInfo, encode_png, parse_infotext, read_info
from shared.jobs import Failure, Job
from shared.loras import LoraEntry
from tests.api_kit import LARGE, TINY, Farm, worker
from tests.loopback import serving
from tests.painting import painting

SKIPPING = TINY.model_copy(update={"id": "skipping", "aliases": (), "skip_layers": (7, 8, 9)})
TURBO = TINY.model_copy(update={"id": "turbo", "aliases": (), "guidance_scale": 0.0})
STIFF = LARGE.model_copy(update={"id": "stiff", "compile": "full"})
FOX: dict[str, Any] = {"prompt": "a red fox", "size": "64x64", "steps": 4, "seed": 42}
INK, OIL, OTHER = "ink", "oil-2.0", "other"


def lora(name: str, digit: str, *models: str, **more: Any) -> LoraEntry:
    return LoraEntry(
        name=name, source=f"file:/secret/{name}", sha256=64 * digit, models=models, **more
    )


LORAS = [
    lora(INK, "1", "tiny", "stiff", "skipping", title="Ink drawings", trigger=("ink drawing",)),
    lora(OIL, "2", "tiny", "skipping"),
    lora(OTHER, "3", "large"),
]


@pytest.fixture
def farm() -> Farm:
    return Farm(catalog=Catalog([TINY, LARGE, STIFF, SKIPPING, TURBO], "tiny", LORAS))


@pytest.fixture
def client(farm: Farm) -> TestClient:
    return farm.client()


def ordered(farm: Farm, client: TestClient, **fields: Any) -> Job:
    response = client.post("/jobs", json=FOX | fields)
    assert response.status_code in (200, 202), response.text
    return farm.store.get(response.json()["id"])  # type: ignore[no-any-return]


def test_loras_are_shown_in_the_job_and_told_to_the_worker_by_their_hash(
    farm: Farm, client: TestClient
) -> None:
    job = ordered(farm, client, loras=[{"name": INK}, {"name": OIL, "scale": -0.5}])

    assert job.input["loras"] == [{"name": INK, "scale": 1.0}, {"name": OIL, "scale": -0.5}]
    spec = job.images[0].render.spec
    assert [(one.name, one.sha256, one.scale) for one in spec.loras] == [
        (INK, 64 * "1", 1.0), (OIL, 64 * "2", -0.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"loras": [{"name": INK}]},
        {"loras": [{"name": INK, "scale": 0.5}]},
        {"loras": [{"name": OIL}]},
        {"model": "skipping", "skip_layer_guidance": 2.8},
        {"preset": "draft"},
    ],
)
def test_each_of_them_makes_another_picture(
    farm: Farm, client: TestClient, change: dict[str, Any]
) -> None:
    model = change.get("model")
    plain, changed = ordered(farm, client, model=model), ordered(farm, client, **change)

    assert plain.images[0].render.fingerprint != changed.images[0].render.fingerprint
    again = ordered(farm, client, **change)
    assert again.images[0].render.id == changed.images[0].render.id


def test_what_has_no_effect_finds_the_plain_picture(farm: Farm, client: TestClient) -> None:
    plain = ordered(farm, client).images[0].render.id
    idle = [{"loras": [{"name": INK, "scale": 0}]}, {"skip_layer_guidance": 0}, {"preset": "exact"}]

    assert [ordered(farm, client, **one).images[0].render.id for one in idle] == [plain] * 3


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"loras": [{"name": "ink2"}]}, "lora_not_found", "loras"),
        ({"loras": [{"name": OTHER}]}, "unsupported_for_model", "loras"),
        ({"size": "256x256", "model": "stiff", "loras": [{"name": INK}]}, "unsupported_for_model", "loras"),
        ({"size": "256x256", "model": "stiff", "loras": [{"name": "none"}]}, "unsupported_for_model", "loras"),
        ({"size": "256x256", "model": "large", "skip_layer_guidance": 1}, "unsupported_for_model", "skip_layer_guidance"),
        ({"model": "turbo", "preset": "draft"}, "unsupported_for_model", "preset"),
        ({"model": "skipping", "preset": "balanced", "skip_layer_guidance": 2.8}, "unsupported_for_model", "preset"),
        ({"loras": [{"name": INK}, {"name": OIL}, {"name": INK}]}, "invalid_value", "loras"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused_at_the_door(
    farm: Farm, client: TestClient, fields: dict[str, Any], code: str, param: str
) -> None:
    response = client.post("/jobs", json=FOX | fields)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, param)
    assert farm.pending == 0


@pytest.mark.parametrize(
    ("field", "default", "other"),
    [("skip_layer_guidance", 2.8, 0.0), ("preset", "balanced", "exact")],
)
def test_an_order_that_says_nothing_takes_the_models_word(
    field: str, default: object, other: object
) -> None:
    entry = SKIPPING.model_copy(update={field: default})
    farm = Farm(catalog=Catalog([entry], "skipping"))

    job = ordered(farm, farm.client())
    said = ordered(farm, farm.client(), **{field: other})

    assert (job.input[field], said.input[field]) == (default, other)


def test_a_dry_run_counts_the_pass_that_skip_layer_guidance_adds(client: TestClient) -> None:
    def gpu_s(**fields: Any) -> float:
        response = client.post(
            "/jobs?dry_run=true", json=FOX | {"model": "skipping", "steps": 50} | fields
        )
        return float(response.json()["gpu_s"])

    assert gpu_s(skip_layer_guidance=2.8) > gpu_s()
    assert gpu_s(skip_layer_guidance=2.8, guidance_scale=0) == gpu_s(guidance_scale=0)


def test_a_dry_run_counts_what_a_preset_spares(client: TestClient) -> None:
    def gpu_s(preset: str) -> float:
        order = FOX | {"steps": 40, "preset": preset}
        return float(client.post("/jobs?dry_run=true", json=order).json()["gpu_s"])

    # guidance in half of the steps: 60 passes of 80, and the two for text and decoding
    assert gpu_s("draft") / gpu_s("exact") == pytest.approx(62 / 82, rel=0.1)
    assert gpu_s("draft") < gpu_s("balanced") < gpu_s("exact")


def test_forms_and_openai_clients_say_the_same(farm: Farm) -> None:
    farm.store.heartbeat(worker("ready"), 60.0)
    client, loras = farm.client(), [{"name": INK, "scale": 0.5}]
    body = {"prompt": "a red fox", "size": "64x64", "loras": loras, "preset": "draft",
            "skip_layer_guidance": 0.0}  # fmt: skip
    form = body | {"loras": json.dumps(loras), "skip_layer_guidance": "0"}

    by_form = client.post("/jobs", files={name: (None, str(value)) for name, value in form.items()})
    with painting(farm) as claims:
        drawn = client.post("/v1/images/generations", json=body)

    assert (by_form.status_code, drawn.status_code) == (202, 200), (by_form.text, drawn.text)
    for spec in (farm.store.get(by_form.json()["id"]).images[0].render.spec, claims[-1].spec):
        assert [(one.name, one.scale) for one in spec.loras] == [(INK, 0.5)]
        assert spec.preset == "draft"
    refused = client.post("/v1/images/generations", json=body | {"skip_layer_guidance": 2.5})
    assert refused.json()["error"]["param"] == "skip_layer_guidance"


# --------------------------------------------------------------------------------------- A1111


@pytest.mark.parametrize(
    ("prompt", "left", "loras"),
    [
        ("a fox <lora:ink:0.8>", "a fox", [(INK, 0.8)]),
        ("<lora:ink> a fox", "a fox", [(INK, 1.0)]),
        ("a <lora:ink:-0.5> fox <lora:oil-2.0:1>", "a fox", [(INK, -0.5), (OIL, 1.0)]),
        ("a fox<lora:ink:0.2:0.8>", "a fox", [(INK, 0.8)]),
        ("a fox <lora:ink:0.5> <lora:ink:0.25>", "a fox", [(INK, 0.75)]),
        ("<lora:ink:1>", "", [(INK, 1.0)]),
        ("a fox <lora:ink:0.5:lbw=ALL>", "a fox", [(INK, 0.5)]),
        ("a <b> fox <lora>", "a <b> fox <lora>", []),
    ],
)
def test_a_prompt_may_name_them_as_the_web_ui_has_it(
    farm: Farm, prompt: str, left: str, loras: list[tuple[str, float]]
) -> None:
    farm.store.heartbeat(worker("ready"), 60.0)

    with painting(farm) as claims:
        response = farm.client().post(
            "/sdapi/v1/txt2img",
            json={"prompt": prompt, "width": 64, "height": 64, "seed": 1, "steps": 2},
        )

    assert response.status_code == 200, response.text
    spec = claims[0].spec
    assert (spec.prompt, [(one.name, one.scale) for one in spec.loras]) == (left, loras)
    if "lbw" in prompt:
        assert response.headers["x-ignored-params"] == "prompt/lbw"


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("<lora:nobody:1>", "lora_not_found"),
        ("<lora:ink:much>", "invalid_value"),
        ("<lora:ink:9>", "invalid_value"),
        ("<lora:ink:nan>", "invalid_value"),
        ("<lora:other>", "unsupported_for_model"),
        ("".join(f"<lora:{k}>" for k in range(5)), "invalid_value"),
    ],
)
def test_what_is_wrong_in_it_is_said_of_the_prompt(
    client: TestClient, prompt: str, code: str
) -> None:
    error = client.post("/sdapi/v1/txt2img", json={"prompt": prompt}).json()["error"]

    assert error["code"] == code
    assert error["param"].split("/")[0] == "prompt"


def test_the_list_is_that_of_the_chosen_model(client: TestClient) -> None:
    of_default = client.get("/sdapi/v1/loras").json()
    client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "large"})
    of_large = client.get("/sdapi/v1/loras").json()

    assert [one["name"] for one in of_default] == [INK, OIL]
    assert [one["name"] for one in of_large] == [OTHER]
    assert "secret" not in json.dumps([of_default, of_large])


def test_a_picture_says_what_it_was_drawn_with(farm: Farm, client: TestClient) -> None:
    job = ordered(
        farm, client, model="skipping", skip_layer_guidance=2.8, loras=[{"name": INK, "scale": 0.5}]
    )
    spec = job.images[0].render.spec
    found = read_info(encode_png(bytes(64 * 64 * 3), 64, 64, PictureInfo.of(spec, "f")))

    text = parse_infotext(found["parameters"])
    assert text["prompt"] == "a red fox <lora:ink:0.5>"
    assert text["Lora hashes"] == "ink: 1111111111"
    assert text["Skip layer guidance"] == "2.8"
    assert found["renderfarm"]["loras"] == [{"name": INK, "sha256": 64 * "1", "scale": 0.5}]
    draft = ordered(farm, client, preset="draft").images[0].render.spec
    found = read_info(encode_png(bytes(64 * 64 * 3), 64, 64, PictureInfo.of(draft, "f")))
    assert parse_infotext(found["parameters"])["Preset"] == "draft"


# ------------------------------------------------------------------------- lists, retries, tools


def test_models_name_their_loras_and_no_file(client: TestClient) -> None:
    tiny, large, stiff, skipping, _turbo = client.get("/models").json()["data"]

    assert [one["name"] for one in tiny["loras"]] == [INK, OIL]
    assert tiny["loras"][0] == {
        "name": INK, "title": "Ink drawings", "sha256": 64 * "1", "trigger": ["ink drawing"],
    }  # fmt: skip
    assert [one["name"] for one in large["loras"]] == [OTHER]
    assert stiff["loras"] == []  # its graphs take none
    assert (tiny["skip_layers"], skipping["skip_layers"]) == ([], [7, 8, 9])
    assert "secret" not in client.get("/models").text


def failed(farm: Farm, client: TestClient, **fields: Any) -> Job:
    job = ordered(farm, client, **fields)
    pool = job.images[0].render.pool
    claimed = farm.store.claim(pool, "t" * 26, "slot-0", "worker-0", 60.0)
    farm.store.close(claimed.render_id, claimed.token, Failure(code="lora_unusable", message="x"))
    return job


def later(farm: Farm, catalog: Catalog) -> TestClient:
    """The same farm with another models.toml."""
    return TestClient(create_app(farm.settings, farm.store, farm.results, catalog))


def test_a_retry_takes_the_file_of_today(farm: Farm, client: TestClient) -> None:
    old = failed(farm, client, loras=[{"name": INK}])

    today = later(farm, Catalog([TINY], "tiny", [lora(INK, "9", "tiny")]))
    new = today.post(f"/jobs/{old.id}/retry").json()

    assert farm.store.get(new["id"]).images[0].render.spec.loras[0].sha256 == 64 * "9"


@pytest.mark.parametrize(
    ("fields", "change", "code"),
    [
        ({"loras": [{"name": INK}]}, {}, "lora_not_found"),
        ({"loras": [{"name": INK}]}, {"compile": "full"}, "unsupported_for_model"),
        ({"skip_layer_guidance": 2.0}, {"skip_layers": ()}, "unsupported_for_model"),
        ({"preset": "draft"}, {"guidance_scale": 0.0}, "unsupported_for_model"),
    ],
)
def test_a_retry_of_what_is_no_longer_there_is_refused(
    farm: Farm, client: TestClient, fields: dict[str, Any], change: dict[str, Any], code: str
) -> None:
    old = failed(farm, client, model="skipping", **fields)
    today = later(farm, Catalog([SKIPPING.model_copy(update=change)], "skipping"))

    response = today.post(f"/jobs/{old.id}/retry")

    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


def test_the_command_line_and_the_client_order_them(farm: Farm) -> None:
    with serving(farm.app) as url:
        options = ["--model", "skipping", "--size", "64x64", "--lora", "ink:0.5", "--lora", OIL, "--skip-layer-guidance", "2.5"]  # fmt: skip
        env = {"RENDERFARM_URL": url}
        done = CliRunner().invoke(main, ["submit", "a red fox", *options], env=env)
        quick = ["submit", "a red fox", "--size", "64x64", "--preset", "draft"]
        drafted = CliRunner().invoke(main, quick, env=env)
        wrong = CliRunner().invoke(main, ["submit", "a red fox", "--lora", "ink:much"], env=env)
        with Client(url) as client:
            model = client.model("tiny")
            estimate = client.dry_run(prompt="a red fox", loras=[{"name": INK}])

    assert done.exit_code == 0, done.output
    given = farm.store.get(done.stdout.split("\t")[0]).input
    assert given["loras"] == [{"name": INK, "scale": 0.5}, {"name": OIL, "scale": 1.0}]
    assert given["skip_layer_guidance"] == 2.5
    assert farm.store.get(drafted.stdout.split("\t")[0]).input["preset"] == "draft"
    assert (wrong.exit_code, "NAME:SCALE" in wrong.output) == (2, True)
    assert [one.name for one in model.loras] == [INK, OIL]
    assert model.loras[0].trigger == ("ink drawing",)
    assert estimate.input["loras"] == [{"name": INK, "scale": 1.0}]
