"""The ONNX engine beside the diffusers engine: an export of the tiny model, on ONNX Runtime's CPU."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli.main import main
from cli.models import listing
from shared.catalog import load_catalog
from shared.errors import Canceled, DeviceFault, ModelError, RenderFailed
from shared.jobs import LoraRef, RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from tests.e2e.parts import Parts
from tests.waiting import wait_until
from worker.engines.onnx_session import Graph, open_session
from worker.engines.port import Inputs, Previews
from worker.loading import onnx_graphs
from worker.loading.bake import as_toml
from worker.loading.export import export, serving_entry
from worker.loading.load import load
from worker.loading.locate import locate
from worker.loading.onnx_folder import TRANSFORMER
from worker.loading.parts import ONNX_MANIFEST as MANIFEST

ENTRY = ModelEntry(
    id="m", title="Tiny", source="tiny:size=small", precision="fp32", max_sequence_length=32,
    min_side_px=16, steps=3, width=64, height=64, aliases=("small",),
)  # fmt: skip
INIT, MASK = {"init_image_sha256": "a1" * 32}, {"mask_image_sha256": "b2" * 32}


def order(seed: int = 7, **changes: Any) -> RenderSpec:
    fields = {
        "model": "m", "model_digest": ENTRY.digest, "seed": seed, "prompt": "a red fox",
        "negative_prompt": "blurry", "width": 64, "height": 64, "steps": 3, "guidance_scale": 4.5,
        "shift": 3.0,
    }  # fmt: skip
    return RenderSpec.model_validate({**fields, **changes})


def served(folder: Path, **changes: Any) -> ModelEntry:
    """As the export has it."""
    fields = serving_entry(ENTRY, folder, changes.pop("precision", "fp32")).model_dump()
    return ModelEntry.model_validate({**fields, "id": "m", **changes})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model_cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def exported(settings: Settings, told: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "fp32"
    export(ENTRY, settings, folder, precision="fp32", say=told.append)
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.fixture(scope="module")
def torchs(settings: Settings) -> Any:
    return load(ENTRY, settings, "cpu")


@pytest.fixture(scope="module")
def engine(exported: Path, settings: Settings) -> Any:
    return load(served(exported), settings, "cpu")


def on_step(done: int, total: int) -> None: ...


def levels(engine: Any, spec: RenderSpec, inputs: Any = None) -> np.ndarray:
    picture = engine.render(spec, on_step, inputs)
    assert (picture.width, picture.height) == (spec.width, spec.height)
    return np.frombuffer(picture.rgb, np.uint8).astype(int)


def given(spec: RenderSpec, masked: bool) -> Callable[[], Inputs]:
    y, x = np.mgrid[0 : spec.height, 0 : spec.width]
    rgb = np.stack([x * 255 // spec.width, y * 255 // spec.height, (x + y) % 256], -1)
    mask = (255 * (x > spec.width // 2)).astype(np.uint8).tobytes() if masked else None
    inputs = Inputs(rgb.astype(np.uint8).tobytes(), mask)
    return lambda: inputs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance_scale": 0.0},
        {"width": 80, "height": 48},  # odd numbers of patches: ONNX rounds quotients another way
        {"width": 16, "height": 144, "guidance_scale": 1.0},
        {"width": 208, "height": 160, "steps": 1},
    ],
)
def test_the_picture_is_the_diffusers_engines(
    engine: Any, torchs: Any, changes: dict[str, Any]
) -> None:
    spec = order(**changes)

    assert abs(levels(engine, spec) - levels(torchs, spec)).max() <= 1


@pytest.mark.parametrize("masked", [False, True])
def test_it_starts_from_pictures_and_repaints_them_alike(
    engine: Any, torchs: Any, masked: bool
) -> None:
    spec = order(width=96, steps=6, strength=0.5, **INIT, **(MASK if masked else {}))
    inputs = given(spec, masked)

    assert abs(levels(engine, spec, inputs) - levels(torchs, spec, inputs)).max() <= 1


def test_the_same_order_gives_the_same_bytes_and_another_seed_others(engine: Any) -> None:
    first = levels(engine, order())

    assert (levels(engine, order()) == first).all()
    assert abs(levels(engine, order(seed=8)) - first).mean() > 0.1


def test_steps_are_told_previews_shown_and_a_cancel_leaves_no_trace(engine: Any) -> None:
    before = levels(engine, order())
    steps: list[tuple[int, int]] = []
    shown: list[int] = []

    def cancel(done: int, total: int) -> None:
        steps.append((done, total))
        if done == 3:
            raise Canceled

    previews = Previews(2, lambda number, *_: shown.append(number))
    with pytest.raises(Canceled):
        engine.render(order(steps=6), cancel, None, previews)

    assert steps == [(1, 6), (2, 6), (3, 6)]
    assert shown == [0]
    assert (levels(engine, order()) == before).all()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"loras": (LoraRef(name="a", sha256="0" * 64, scale=1.0),)}, "takes no LoRAs"),
        ({"skip_layer_guidance": 2.8}, "skips no layers"),
        ({"preset": "draft"}, "has no preset draft"),
    ],
)
def test_what_a_graph_cannot_do_is_refused_in_words(
    engine: Any, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(RenderFailed, match=f"engine onnx {why}"):
        engine.render(order(**changes), on_step)


def test_a_picture_names_engine_provider_and_version(engine: Any) -> None:
    import onnxruntime

    profile = engine.render(order(), on_step).profile

    assert (profile["engine"], profile["dtype"]) == ("onnx", "fp32")
    assert profile["provider"] == "CPUExecutionProvider"
    assert profile["onnxruntime"] == onnxruntime.__version__
    assert profile["opset"] == str(onnx_graphs.OPSET)


def test_a_picture_tells_its_arithmetic_as_the_other_engine_does(engine: Any, torchs: Any) -> None:
    ours, theirs = (each.render(order(), on_step).effort for each in (engine, torchs))

    assert ours.tflop == theirs.tflop
    assert min(ours.tflop_per_s, ours.ceiling_share, ours.step_s) > 0


def test_the_export_tells_what_it_does_and_nothing_about_this_machine(
    exported: Path, settings: Settings, told: list[str]
) -> None:
    assert [line for line in told if line.startswith("wrote transformer/model.onnx: 1.")]
    assert any(line.startswith("wrote vae/encoder.onnx") for line in told)
    here = (str(Path(torch.__file__).parent).encode(), str(settings.cache_dir).encode())
    written = [*exported.glob("*/*.onnx"), *exported.glob("*/config.json"), exported / MANIFEST]
    assert not [file for file in written for path in here if path in file.read_bytes()]


def test_the_printed_entry_is_one_that_a_farm_reads(exported: Path, tmp_path: Path) -> None:
    models = tmp_path / "models.toml"
    models.write_text('default = "m-onnx"\n' + as_toml(serving_entry(ENTRY, exported, "fp32")))

    entry = load_catalog(models).default

    assert (entry.engine, entry.source, entry.steps) == ("onnx", f"dir:{exported}", 3)
    assert entry == serving_entry(ENTRY, exported, "fp32")
    assert entry.aliases == ()


def test_models_list_says_of_an_export_what_is_known(
    exported: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_the_decoder(copied)
    tables = [
        as_toml(serving_entry(ENTRY.model_copy(update={"id": name}), folder, "fp32"))
        for name, folder in (("whole", exported), ("cut", copied))
    ]
    models = tmp_path / "models.toml"
    models.write_text('default = "whole-onnx"\n' + "\n".join(tables))
    monkeypatch.setenv("FARM_MODELS_FILE", str(models))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(listing, "card_bytes", lambda: 80_000_000_000)

    whole, cut = json.loads(CliRunner().invoke(main, ["models", "list", "--json"]).output)
    table = CliRunner().invoke(main, ["models", "list"]).output

    assert (whole["whole"], cut["whole"]) == (True, False)
    assert (whole["card_holds"], "not known" in table) == (None, True)


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_models_check_finds_an_export_whole_and_a_changed_one_not(
    exported: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: list[str]
) -> None:
    def check(folder: Path) -> tuple[int, str]:
        models = tmp_path / "models.toml"
        models.write_text('default = "m-onnx"\n' + as_toml(serving_entry(ENTRY, folder, "fp32")))
        monkeypatch.setenv("FARM_MODELS_FILE", str(models))
        done = CliRunner().invoke(main, ["models", "check", "m-onnx", *deep])
        return done.exit_code, done.output

    assert check(exported)[0] == 0, check(exported)[1]
    weights = copied / f"{TRANSFORMER}.data"
    if deep:  # the length tells nothing then
        content = bytearray(weights.read_bytes())
        content[1000] ^= 1
        weights.write_bytes(content)
    else:
        cut_the_weights(copied)
    code, said = check(copied)
    assert code == 1
    assert "model.onnx.data is not the file that" in said


def test_an_export_that_cannot_be_written_is_refused_in_words(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ModelError, match="onnx cannot be written: FileExistsError"):
        export(ENTRY, settings, tmp_path / "file" / "onnx", precision="fp32")


def test_a_folder_in_use_is_not_written_over(exported: Path, settings: Settings) -> None:
    with pytest.raises(ModelError, match="is in use"):
        export(ENTRY, settings, exported, precision="fp32")


# ----------------------------------------------------------------------- what does not fit


def remove(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def cut(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"format": 1')


def from_the_future(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))


def change_the_graph(folder: Path) -> None:
    graph = bytearray((folder / TRANSFORMER).read_bytes())
    graph[-1] ^= 1
    (folder / TRANSFORMER).write_bytes(graph)


def cut_the_weights(folder: Path) -> None:
    os.truncate(folder / f"{TRANSFORMER}.data", 1000)


def lose_the_decoder(folder: Path) -> None:
    (folder / "vae/decoder.onnx").unlink()


def lose_an_encoder(folder: Path) -> None:
    (folder / "text_encoder/model.safetensors").unlink()


def lose_a_width(folder: Path) -> None:
    """No check looks for it: what goes wrong where nobody looked is told in words too."""
    config = json.loads((folder / "transformer/config.json").read_text())
    del config["joint_attention_dim"]
    (folder / "transformer/config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lose_a_width, "m cannot be loaded: KeyError: 'joint_attention_dim'"),
        (remove, f"has no {MANIFEST}: engine onnx takes a folder that"),
        (cut, "is damaged"),
        (from_the_future, "was exported in format 2, and this version reads 1"),
        (change_the_graph, "is not the file that was exported"),
        (cut_the_weights, "is not the file that was exported"),
        (lose_the_decoder, "vae/decoder.onnx is missing"),
        (lose_an_encoder, "text_encoder/model.safetensors is missing"),
    ],
)
def test_a_folder_that_is_not_as_it_was_exported_is_refused(
    copied: Path, settings: Settings, damage: Callable[[Path], None], why: str
) -> None:
    damage(copied)

    with pytest.raises(ModelError, match=why):
        load(served(copied), settings, "cpu")


def test_an_entry_of_another_precision_is_refused(exported: Path, settings: Settings) -> None:
    with pytest.raises(ModelError, match=r"was exported in fp32, and m says fp16"):
        load(served(exported, precision="fp16"), settings, "cpu")


def test_a_provider_that_is_missing_is_refused_and_not_replaced_by_the_cpu(exported: Path) -> None:
    with pytest.raises(ModelError, match="no working CUDAExecutionProvider"):
        open_session(exported / TRANSFORMER, "cuda", {"device_id": "7"}, 1)


def test_without_onnxruntime_the_extra_is_named(
    exported: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ModelError, match=r"pip install 'renderfarm\[onnx\]'"):
        load(served(exported), settings, "cpu")


# ----------------------------------------------------------------------- when a graph fails


class BrokenSession:
    """Fails as ONNX Runtime words it."""

    def __init__(self, session: Any, words: str) -> None:
        self._session = session
        self._words = words

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        raise RuntimeError(self._words)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Failed to allocate memory for requested buffer of size 1073741824", "out_of_memory"),
        ("Non-zero status code returned while running Add node.", "render_error"),
        ("CUDA failure 700: an illegal memory access ; GPU=0 ; hostname=somewhere", "device"),
    ],
)
def test_a_failure_of_onnx_runtime_is_told_apart(
    exported: Path, settings: Settings, words: str, code: str
) -> None:
    engine = load(served(exported), settings, "cpu")
    transformer = engine._drawing._pipe.transformer
    graph = transformer._graph
    transformer._graph = Graph(BrokenSession(graph.session, words), graph.device)

    with pytest.raises((RenderFailed, DeviceFault)) as failure:
        engine.render(order(), on_step)

    assert getattr(failure.value, "code", "device") == code
    assert "hostname" not in str(failure.value)
    transformer._graph = graph
    if code != "device":
        assert levels(engine, order()).any()


# ----------------------------------------------------------------------- other precisions


@pytest.mark.slow
def test_int8_with_a_vae_of_torch_is_exported_by_the_command_and_draws_nearly_the_same(
    settings: Settings, torchs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models.toml"
    models.write_text('default = "m"\n' + as_toml(ENTRY))
    monkeypatch.setenv("FARM_MODELS_FILE", str(models))
    monkeypatch.setenv("FARM_MODEL_CACHE_DIR", str(settings.cache_dir))
    folder = tmp_path / "int8"

    done = CliRunner().invoke(
        main, ["models", "export", "m", str(folder), "--precision", "int8", "--no-vae"]
    )

    assert done.exit_code == 0, done.output
    (fields,) = tomllib.loads(done.stdout)["models"].values()
    small = load(ModelEntry.model_validate({"id": "m", **fields}), settings, "cpu")
    assert type(small._drawing._pipe.vae).__name__ == "AutoencoderKL"
    apart = abs(levels(small, order()) - levels(torchs, order()))
    assert 0 < apart.mean() < 2
    assert integer_multiplications(folder / TRANSFORMER) == 13  # the block's own, and no others
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.glob("*/*.onnx*"))


def integer_multiplications(graph: Path) -> int:
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    return sum(node.op_type == "MatMulInteger" for node in nodes)


@pytest.mark.slow
def test_a_graph_in_bf16_is_sound_though_no_cpu_runs_it(settings: Settings, tmp_path: Path) -> None:
    import onnx
    from diffusers import SD3Transformer2DModel

    source = locate(ENTRY, settings)
    network = SD3Transformer2DModel.from_pretrained(
        source, subfolder="transformer", torch_dtype=torch.bfloat16
    )
    graph = tmp_path / "model.onnx"
    onnx_graphs.write_transformer(network, graph)

    onnx.checker.check_model(graph, full_check=True)
    with pytest.raises(ModelError, match="NOT_IMPLEMENTED"):
        open_session(graph, "cpu", {}, 1)


# ----------------------------------------------------------------------- a whole farm


@pytest.mark.slow
def test_a_farm_with_an_onnx_entry_draws_what_torch_draws(
    exported: Path,
    settings: Settings,
    torchs: Any,
    tmp_path: Path,
    redis_of: Callable[[str], str],
) -> None:
    models = tmp_path / "models.toml"
    models.write_text('default = "m-onnx"\n' + as_toml(serving_entry(ENTRY, exported, "fp32")))
    more = {"FARM_MODELS_FILE": str(models), "FARM_DEFAULT_MODEL": "m-onnx"}

    with Parts(tmp_path / "farm", settings.cache_dir, redis_of("valkey"), **more) as parts:
        _, url = parts.api()
        parts.worker("w0")
        body = {"prompt": "a red fox", "seed": 7}
        job = httpx2.post(f"{url}/jobs", json=body).json()["id"]
        wait_until(lambda: httpx2.get(f"{url}/jobs/{job}").json()["done"], 60)
        done = httpx2.get(f"{url}/jobs/{job}").json()
        assert done["status"] == "succeeded", done
        picture = Image.open(io.BytesIO(httpx2.get(done["images"][0]["url"]).content))

    spec = order(
        model="m-onnx", model_digest=load_catalog(models).default.digest, negative_prompt=""
    )
    assert abs(np.asarray(picture).astype(int).flatten() - levels(torchs, spec)).max() <= 1
