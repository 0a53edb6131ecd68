"""`renderfarm verify`: the command itself, on pictures of the real engine."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

from cli.main import main
from shared.catalog import load_catalog
from shared.fingerprint import fingerprint
from shared.images import PictureInfo, convert, encode_png, read_info
from shared.intake import make_plain
from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from tests.adapters import lora_entry, ref, train
from worker.inputs import inputs_of
from worker.loading.load import load
from worker.loading.locate import locate
from worker.verify import account_of, entry_of

CATALOG = """
default = "small"
[models.small]
source = "tiny:size=small"
precision = "fp32"
max_sequence_length = 32
width = 64
height = 64
min_side_px = 16
"""
LITTLE = CATALOG.replace("models.small", "models.little").replace('= "small"', '= "little"')
Verify = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    (folder / "models.toml").write_text(CATALOG)
    return folder


@pytest.fixture(scope="module")
def entry(folder: Path) -> ModelEntry:
    return load_catalog(folder / "models.toml").default


@pytest.fixture(scope="module")
def engine(folder: Path, entry: ModelEntry) -> Any:
    return load(entry, Settings(model_cache_dir=folder / "models"), "cpu")


@pytest.fixture
def verify(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Verify:
    def verify(image: Path, *options: object, models: str = "models.toml") -> Result:
        env = {
            "FARM_MODELS_FILE": str(folder / models),
            "FARM_MODEL_CACHE_DIR": str(folder / "models"),
            "FARM_DEVICE": "cpu",
            "COLUMNS": "200",
        }
        words = ["verify", str(image), *map(str, options)]
        return CliRunner().invoke(main, words, env=env, prog_name="renderfarm")

    return verify


def order(entry: ModelEntry, **changes: Any) -> RenderSpec:
    fields = {
        "model": entry.id, "model_digest": entry.digest, "prompt": "a red fox", "width": 64,
        "height": 64, "steps": 2, "guidance_scale": 4.5, "shift": 3.0, "seed": 7,
    }  # fmt: skip
    return RenderSpec.model_validate({**fields, **changes})


def made(engine: Any, spec: RenderSpec, inputs: Any = None) -> bytes:
    picture = engine.render(spec, lambda done, total: None, inputs)
    info = PictureInfo.of(spec, fingerprint(spec), random_weights=True, profile=picture.profile)
    return encode_png(picture.rgb, picture.width, picture.height, info)


def saved(folder: Path, data: bytes, name: str = "picture.png") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def painted_over(png: bytes, level: int, side: int) -> bytes:
    """The same texts, and a square of other pixels."""
    with Image.open(io.BytesIO(png)) as image:
        texts = PngImagePlugin.PngInfo()
        for name, text in image.text.items():
            texts.add_text(name, text)
        image.paste((level,) * 3, (0, 0, side, side))
        file = io.BytesIO()
        image.save(file, "PNG", pnginfo=texts)
    return file.getvalue()


def test_a_picture_that_comes_out_again_is_bit_identical(
    verify: Verify, engine: Any, entry: ModelEntry, tmp_path: Path
) -> None:
    done = verify(saved(tmp_path, made(engine, order(entry))))

    assert (done.exit_code, done.stderr) == (0, "")
    assert "picture.png: bit-identical" in done.stdout
    assert "torch" in done.stdout


def test_one_that_was_painted_over_is_different_and_says_how_much(
    verify: Verify, engine: Any, entry: ModelEntry, tmp_path: Path
) -> None:
    png = painted_over(made(engine, order(entry)), 0, 64)

    done = verify(saved(tmp_path, png), "--json")
    told = json.loads(done.stdout)

    assert (done.exit_code, told["verdict"]) == (1, "different")
    assert told["max_abs_diff"] > 100
    assert told["psnr_db"] < 20


def test_one_that_hardly_differs_is_the_same_within_the_tolerance(
    verify: Verify, engine: Any, entry: ModelEntry, tmp_path: Path
) -> None:
    file = saved(tmp_path, painted_over(made(engine, order(entry)), 128, 1))

    loose, strict = verify(file, "--tolerance-db", 30), verify(file, "--tolerance-db", 99)

    assert (loose.exit_code, strict.exit_code) == (3, 1)
    assert "same within" in loose.stdout


def test_a_jpeg_of_it_is_measured_by_its_own_distance(
    verify: Verify, engine: Any, entry: ModelEntry, tmp_path: Path
) -> None:
    jpeg = convert(made(engine, order(entry)), "jpeg", 95)

    done = verify(saved(tmp_path, jpeg, "picture.jpg"), "--tolerance-db", 15)

    assert done.exit_code == 3


def test_a_picture_scaled_afterwards_is_different(
    verify: Verify, engine: Any, entry: ModelEntry, tmp_path: Path
) -> None:
    png = made(engine, order(entry))
    with Image.open(io.BytesIO(png)) as image:
        texts = PngImagePlugin.PngInfo()
        texts.add_text("renderfarm", image.text["renderfarm"])
        image.resize((32, 32)).save(tmp_path / "small.png", pnginfo=texts)

    done = verify(tmp_path / "small.png")

    assert done.exit_code == 1
    assert "another size" in done.stdout


def test_what_rounds_is_shown_for_both_and_marked_where_it_differs(
    verify: Verify, engine: Any, entry: ModelEntry, tmp_path: Path
) -> None:
    spec = order(entry)
    picture = engine.render(spec, lambda done, total: None)
    profile = picture.profile | {"device": "NVIDIA H200", "cudnn": "91900"}
    info = PictureInfo.of(spec, fingerprint(spec), profile=profile)
    file = saved(tmp_path, encode_png(picture.rgb, 64, 64, info))

    told = json.loads(verify(file, "--json").stdout)["profile"]
    shown = verify(file).stdout

    assert (told["then"]["device"], sorted(told["differ"])) == ("NVIDIA H200", ["cudnn", "device"])
    assert told["here"] == picture.profile
    assert sum("│ *" in line for line in shown.splitlines()) == 2


def test_a_repainted_picture_needs_the_files_it_was_made_of(
    verify: Verify, engine: Any, entry: ModelEntry, tmp_path: Path
) -> None:
    photo, mask = io.BytesIO(), io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(photo, "PNG")
    Image.linear_gradient("L").save(mask, "PNG")
    plain = make_plain(photo.getvalue()), make_plain(mask.getvalue(), "mask", invert=True)
    spec = order(
        entry, init_image_sha256=plain[0].sha256, mask_image_sha256=plain[1].sha256, strength=0.6
    )
    opened = [Image.open(io.BytesIO(each.png)) for each in plain]
    file = saved(tmp_path, made(engine, spec, lambda: inputs_of(opened[0], opened[1], 64, 64)))
    first = saved(tmp_path, photo.getvalue(), "photo.png")
    second = saved(tmp_path, mask.getvalue(), "mask.png")

    done = [
        verify(file, "--init-image", first, "--mask", second),
        verify(file),
        verify(file, "--init-image", second, "--mask", second),
        verify(file, "--init-image", saved(tmp_path, b"no picture", "text"), "--mask", second),
    ]

    assert [each.exit_code for each in done] == [0, 2, 2, 2]
    assert "give its file with --init-image" in done[1].stderr
    assert "is not the one" in done[2].stderr
    assert "cannot be used" in done[3].stderr


def test_a_picture_with_a_lora_is_drawn_again_with_the_same_file(
    verify: Verify, entry: ModelEntry, folder: Path, tmp_path: Path
) -> None:
    settings = Settings(model_cache_dir=folder / "models")
    ink = lora_entry(train(tmp_path, locate(entry, settings)), "ink", ("small",))
    table = f'[loras.ink]\nsource = "{ink.source}"\nsha256 = "{ink.sha256}"\nmodels = ["small"]\n'
    (folder / "inked.toml").write_text(CATALOG + table)
    inked = load(entry, settings, "cpu", loras={"ink": ink})
    file = saved(tmp_path, made(inked, order(entry, loras=(ref(ink, 0.8),))))

    done = verify(file, models="inked.toml")
    unknown = verify(file)
    Path(ink.source.removeprefix("file:")).write_bytes(b"another")
    lost = verify(file, models="inked.toml")

    assert (done.exit_code, done.stderr) == (0, "")
    assert (unknown.exit_code, lost.exit_code) == (2, 2)
    assert "LoRA ink cannot be used" in unknown.stderr
    assert "LoRA ink cannot be used" in lost.stderr


def test_what_cannot_be_verified_says_why_in_one_line(
    verify: Verify, engine: Any, entry: ModelEntry, folder: Path, tmp_path: Path
) -> None:
    png = made(engine, order(entry))
    bare = io.BytesIO()
    Image.new("RGB", (64, 64)).save(bare, "PNG")
    (folder / "other.toml").write_text(CATALOG.replace("size=small", "size=small,seed=1"))
    lost = LITTLE.replace("size=small", "size=small,seed=1")
    (folder / "lost.toml").write_text(lost)

    done = [
        verify(saved(tmp_path, bare.getvalue(), "bare.png")),
        verify(saved(tmp_path, b"GIF89a", "a.gif")),
        verify(saved(tmp_path, png), models="other.toml"),
        verify(saved(tmp_path, png), models="lost.toml"),
        verify(saved(tmp_path, png), "--device", "abacus"),
        verify(saved(tmp_path, png), models="nowhere.toml"),
    ]

    assert [each.exit_code for each in done] == [2] * 6
    whys = [
        "does not say how it was made", "not a PNG", "is another today", "no model small",
        "not 'abacus'", "cannot read",
    ]  # fmt: skip
    for each, why in zip(done, whys, strict=True):
        assert why in each.stderr
        assert each.stderr.startswith("renderfarm: ")
        assert each.stderr.count("\n") == 1


def test_a_renamed_entry_is_found_by_its_digest(
    verify: Verify, engine: Any, entry: ModelEntry, folder: Path, tmp_path: Path
) -> None:
    (folder / "little.toml").write_text(LITTLE)

    told = verify(saved(tmp_path, made(engine, order(entry))), "--json", models="little.toml")

    assert json.loads(told.stdout)["model"] == "little"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed": 8}, "somebody has changed them"),
        ({"cfg_rescale": 0.7}, "does not know cfg_rescale"),
        ({"steps": None}, "lacks steps"),
    ],
)
def test_an_account_that_is_not_of_a_piece_is_refused(
    engine: Any, entry: ModelEntry, changes: dict[str, Any], why: str
) -> None:
    from worker.verify import Unverifiable

    png = made(engine, order(entry))
    account = read_info(png)["renderfarm"] | changes
    texts = PngImagePlugin.PngInfo()
    texts.add_text("renderfarm", json.dumps(account))
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).save(file, "PNG", pnginfo=texts)

    with pytest.raises(Unverifiable, match=why):
        account_of(file.getvalue())


def test_every_note_of_the_account_is_known(engine: Any, entry: ModelEntry, folder: Path) -> None:
    account = account_of(made(engine, order(entry)))

    assert account.spec == order(entry)
    assert entry_of(account.spec, load_catalog(folder / "models.toml")) == entry


@pytest.mark.parametrize("change", [{"steps": 10**9}, {"width": 65_536}, {"height": 65_536}])
def test_a_picture_that_would_take_for_ever_is_not_rendered(
    folder: Path, entry: ModelEntry, verify: Verify, change: dict[str, int]
) -> None:
    spec = order(entry, **change)
    info = PictureInfo.of(spec, fingerprint(spec))

    done = verify(saved(folder, encode_png(bytes(64 * 64 * 3), 64, 64, info)))

    assert (done.exit_code, "beyond what small takes" in done.output) == (2, True), done.output
