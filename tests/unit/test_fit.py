"""The arithmetic of memory, against the published ladder and the tiny model's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalog import load_catalog
from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading import tiny
from worker.loading.fit import PLACEMENTS, fits, least, need, sizes
from worker.loading.weights import KNOWN, Weights, counted, known

CATALOG = load_catalog()
LARGE, MEDIUM = CATALOG.find("sd3.5-large"), CATALOG.find("sd3.5-medium")


def counts(entry: ModelEntry) -> Weights:
    found = known(entry)
    assert found
    return found


def gb(entry: ModelEntry, **changes: object) -> tuple[float, float]:
    """Of the transformer and the text encoders."""
    size = sizes(entry.model_copy(update=changes), counts(entry))
    return round(size.transformer / 1e9, 1), round(size.encoders / 1e9, 1)


@pytest.mark.parametrize(
    ("precision", "large", "medium"),
    [("bf16", 16.3, 4.9), ("fp8", 10.9, 3.5), ("fp8-storage", 10.9, 3.5), ("nf4", 4.8, 1.7)],
)
def test_the_transformers_of_the_ladder(precision: str, large: float, medium: float) -> None:
    assert gb(LARGE, precision=precision)[0] == pytest.approx(large, abs=0.06)
    assert gb(MEDIUM, precision=precision)[0] == pytest.approx(medium, abs=0.06)


@pytest.mark.parametrize(
    ("t5", "encoders"), [("on", 11.2), ("fp8", 6.5), ("int8", 7.5), ("nf4", 6.0), ("off", 1.6)]
)
def test_the_text_encoders_of_the_ladder(t5: str, encoders: float) -> None:
    assert gb(LARGE, t5=t5)[1] == pytest.approx(encoders, abs=0.06)


def test_fp16_needs_more_than_bf16_because_part_of_t5_stays_wide() -> None:
    assert gb(LARGE, precision="fp16")[1] == gb(LARGE)[1] + 2.0


@pytest.mark.parametrize(
    ("file", "gigabytes"),
    [("sd3.5_large-Q8_0.gguf", 8.7), ("sd3.5_large-Q4_K_M.gguf", 4.6), ("what.gguf", 16.3)],
)
def test_a_gguf_file_tells_its_size_by_its_name(file: str, gigabytes: float) -> None:
    size = gb(LARGE, precision="gguf", gguf_file=file)[0]

    assert size == pytest.approx(gigabytes, abs=0.06)


def test_each_placement_needs_less_than_the_one_before() -> None:
    for entry in (LARGE, MEDIUM):
        needed = list(need(entry, counts(entry)).values())
        assert needed == sorted(needed, reverse=True)


def test_what_is_certain_is_less_than_what_is_needed() -> None:
    needed, certain = need(LARGE, counts(LARGE)), least(LARGE, counts(LARGE))

    assert all(certain[place] < needed[place] for place in PLACEMENTS)
    assert certain["gpu"] / 1e9 == pytest.approx(27.6, abs=0.1)


def test_larger_pictures_and_guidance_need_more() -> None:
    wide = LARGE.model_copy(update={"width": 1536})
    unguided = LARGE.model_copy(update={"guidance_scale": 0.0})
    tiled = wide.model_copy(update={"height": 1536, "vae_tiling": True})

    assert need(wide, counts(LARGE))["gpu"] > need(LARGE, counts(LARGE))["gpu"]
    half = sizes(unguided, counts(LARGE)).denoising
    assert half * 2 == pytest.approx(sizes(LARGE, counts(LARGE)).denoising, abs=1)
    assert sizes(tiled, counts(LARGE)).decoding == sizes(LARGE, counts(LARGE)).decoding


@pytest.mark.parametrize(
    ("entry", "changes", "memory_gb", "first"),
    [
        (LARGE, {}, 40, "gpu"),
        (LARGE, {}, 24, "model-offload"),
        (LARGE, {"precision": "fp8", "t5": "fp8"}, 24, "gpu"),
        (LARGE, {"precision": "fp8", "t5": "int8"}, 16, "model-offload"),
        (LARGE, {"precision": "nf4", "t5": "nf4"}, 8, "model-offload"),
        (LARGE, {}, 8, "group-offload"),
        (MEDIUM, {}, 24, "gpu"),
        (MEDIUM, {"precision": "fp8", "t5": "off"}, 8, "gpu"),
    ],
)
def test_the_fastest_placement_that_a_card_holds(
    entry: ModelEntry, changes: dict[str, str], memory_gb: float, first: str
) -> None:
    found = fits(entry.model_copy(update=changes), round(memory_gb * 2**30))

    assert found is not None
    assert found[0] == first


def test_of_a_model_that_nobody_counted_nothing_is_said() -> None:
    stranger = ModelEntry(id="x", source="hf:somebody/something")

    assert (known(stranger), fits(stranger, 10**12)) == (None, None)


def test_a_known_model_is_known_wherever_it_lies() -> None:
    for source in (
        "modelscope:AI-ModelScope/stable-diffusion-3.5-large",
        "dir:/m/Stable-Diffusion-3.5-Large",
    ):
        assert known(ModelEntry(id="x", source=source)) is KNOWN["stable-diffusion-3.5-large"]


def test_a_folder_is_counted_from_its_headers(tmp_path: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    folder = tiny.build(tmp_path / "tiny", size="small")
    found = counted(folder)
    pipe = StableDiffusion3Pipeline.from_pretrained(folder)

    def numbers(*names: str) -> int:
        return sum(t.numel() for name in names for t in getattr(pipe, name).state_dict().values())

    assert found.transformer == numbers("transformer")
    assert found.clip == numbers("text_encoder", "text_encoder_2")
    linears = {n for n, m in pipe.text_encoder_3.named_modules() if type(m).__name__ == "Linear"}
    sized = {n: pipe.text_encoder_3.get_submodule(n).weight.numel() for n in linears}
    wo = sum(size for name, size in sized.items() if name.endswith(".wo"))
    assert (found.t5_wo, found.t5) == (wo, sum(sized.values()) - wo)
    assert found.vae == numbers("vae")
    assert (found.width, found.adaln > 0, found.ends > 0) == (32, True, True)


def test_damaged_headers_are_one_clear_fault(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "tiny", size="small")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 40)

    with pytest.raises(ModelError, match="cannot be counted"):
        counted(folder)


def test_the_ladder_on_the_page_is_the_arithmetics() -> None:
    page = (Path(__file__).parents[2] / "docs" / "memory.md").read_text("utf-8")
    rows = [row.strip("| ").split(" | ") for row in page.splitlines() if row.startswith("| sd3.5-")]

    assert len(rows) > 8
    for name, precision, t5, *told in rows:
        entry = CATALOG.find(name).model_copy(update={"precision": precision, "t5": t5})
        size, needed = sizes(entry, counts(entry)), need(entry, counts(entry))
        asked = (size.transformer, size.encoders, *needed.values())
        assert told == [f"{count / 1e9:.1f}" for count in asked]
