"""LoRAs on a whole farm: HTTP, Redis, a worker with the real pipeline, and many clients at once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from shared.images import read_info
from shared.models import ModelEntry
from shared.settings import Settings
from tests.adapters import sha256_of, train
from tests.e2e.farm import RunningFarm
from worker.loading.locate import locate

CLIENTS = 16
TINY = ModelEntry(id="tiny", source="tiny:size=small", precision="fp32")


@pytest.fixture(scope="module")
def farm(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """One worker, a tiny model, two LoRAs, and a third whose file is not there."""
    folder = tmp_path_factory.mktemp("loras-farm")
    model = locate(TINY, Settings(model_cache_dir=models))
    text = """
default = "tiny"
[models.tiny]
source = "tiny:size=small"
precision = "fp32"
max_sequence_length = 32
min_side_px = 16
skip_layers = [0]
skip_layer_stop = 0.9
"""
    for seed, name in enumerate(("ink", "oil", "gone")):
        file = train(folder, model, seed=seed, name=name)
        text += f'[loras.{name}]\nsource = "file:{file}"\nsha256 = "{sha256_of(file)}"\nmodels = ["tiny"]\n'
    (folder / "gone.safetensors").unlink()
    (folder / "models.toml").write_text(text)
    file = str(folder / "models.toml")
    with RunningFarm(folder / "data", models, FARM_MODELS_FILE=file) as running:
        yield running


def rgb(farm: RunningFarm, **order: Any) -> bytes:
    """The picture's pixels, as they came over HTTP."""
    job = farm.wait(farm.submit(**order)["id"])
    assert job["status"] == "succeeded", job["error"]
    return Image.open(io.BytesIO(farm.picture(job))).tobytes()


def test_a_picture_with_a_lora_is_another_and_says_so(farm: RunningFarm) -> None:
    plain = rgb(farm, seed=1)
    inked = farm.wait(farm.submit(seed=1, loras=[{"name": "ink", "scale": 0.8}])["id"])

    details = read_info(farm.picture(inked))["renderfarm"]
    assert [(one["name"], one["scale"]) for one in details["loras"]] == [("ink", 0.8)]
    assert rgb(farm, seed=1, loras=[{"name": "ink", "scale": 0.8}]) != plain
    assert farm.submit(seed=1, loras=[{"name": "ink", "scale": 0.8}])["cached"]
    assert rgb(farm, seed=1, cache="bypass") == plain


def test_a_file_that_is_missing_fails_its_orders_in_words_and_no_others(farm: RunningFarm) -> None:
    job = farm.wait(farm.submit(seed=2, loras=[{"name": "ink"}, {"name": "gone"}])["id"])

    assert (job["status"], job["error"]["code"]) == ("failed", "lora_unusable")
    assert job["error"]["message"].startswith("the LoRA gone cannot be used: its file cannot be")
    assert str(farm.folder.parent) not in str(job["error"])
    assert rgb(farm, seed=1, cache="bypass") == rgb(farm, seed=1)


def test_sixteen_clients_at_once_get_the_pictures_they_would_get_alone(farm: RunningFarm) -> None:
    """One pipeline draws for all of them: no order meets another's schedule, size or adapters."""
    orders = [
        {
            "seed": 100 + k,
            "size": ("64x64", "96x48", "32x80")[k % 3],
            "steps": 2 + k % 4,
            "shift": (1.0, 3.0, 6.0)[k % 3],
            "loras": ([], [{"name": "ink"}], [{"name": "oil", "scale": -1.0}, {"name": "ink"}])[k % 3],
            "skip_layer_guidance": (0.0, 2.8)[k % 2],
        }
        for k in range(CLIENTS)
    ]  # fmt: skip

    with ThreadPoolExecutor(CLIENTS) as clients:
        together = list(clients.map(lambda order: answered(farm, order), orders))

    alone = [answered(farm, order) for order in orders]
    assert together == alone
    assert len(set(together)) == CLIENTS


def answered(farm: RunningFarm, order: dict[str, Any]) -> bytes:
    """The bytes of one picture, of a client that waits for it; drawn anew."""
    body = {"prompt": "a lighthouse at dusk", "cache": "bypass", **order}
    response = httpx2.post(f"{farm.url}/txt2img", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return response.content
