"""What spares the device and the host: kernels, waits, copies and encoders, on the real pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from torch.utils._python_dispatch import TorchDispatchMode

from shared.errors import Canceled, ModelError, RenderFailed
from tests.engines import apart, drawn, entry_of, loaded, on_step, order
from worker.engines import pace
from worker.engines.attention import attention_of
from worker.engines.decode import decoded
from worker.engines.pace import Pace
from worker.engines.port import Previews
from worker.engines.text import Prompts

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Any:
    return loaded(entry_of(), folder)


class Operators(TorchDispatchMode):
    """Which operators run inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(operator))
        return operator(*args, **(kwargs or {}))

    @property
    def waits(self) -> list[str]:
        """Those that make the host wait for a number of the device."""
        asking = ("aten.item", "nonzero", "_local_scalar_dense", "aten.equal")
        return [name for name in self.names if any(part in name for part in asking)]


# ---- attention


@pytest.mark.parametrize("kernel", ["math", "flash"])
def test_a_pinned_kernel_runs_is_named_and_draws_the_same(
    engine: Any, folder: Path, kernel: str
) -> None:
    pinned = loaded(entry_of(attention=kernel), folder)

    picture = pinned.render(order(), on_step)

    assert picture.profile["attention"] == kernel
    assert apart(picture.rgb, drawn(engine, order())) <= 1


def test_the_pin_reaches_the_pipelines_own_attention(folder: Path) -> None:
    pinned = loaded(entry_of(attention="math"), folder)
    transformer = pinned._pipe.transformer
    names: list[str] = []

    def spy(_block: Any, args: Any, kwargs: Any, _made: Any) -> None:
        # Run again where operators can be seen, which inference mode hides.
        with torch.inference_mode(False), torch.no_grad(), Operators() as seen:
            tokens = torch.ones((1, 1, 8, 16))
            torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        names.extend(seen.names)

    hook = transformer.transformer_blocks[0].register_forward_hook(spy, with_kwargs=True)
    drawn(pinned, order(steps=1))
    hook.remove()

    assert names
    assert not [name for name in names if "flash" in name]


def test_what_torch_chose_stands_in_the_profile(engine: Any) -> None:
    assert engine.render(order(), on_step).profile["attention"] == "flash"  # of a CPU


@pytest.mark.parametrize("kernel", ["cudnn", "efficient", "flash3"])
def test_a_kernel_that_is_not_here_is_refused_in_a_sentence(engine: Any, kernel: str) -> None:
    with pytest.raises(ModelError, match=f"attention {kernel} of m .* use auto"):
        attention_of(entry_of(attention=kernel), engine._pipe.transformer, CPU)


# ---- the host and the device


class Device:
    """Finishes a step when it is told to wait for it, and remembers how many were queued then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queued = -1  # the first mark is the beginning
        self.done = 0
        monkeypatch.setattr(pace, "marks_of", lambda device: (self.mark, pace.AHEAD_STEPS))

    def mark(self) -> Any:
        self.queued += 1
        return DeviceMark(self, self.queued)


@dataclass(slots=True, frozen=True)
class DeviceMark:
    device: Device
    number: int

    def wait(self) -> None:
        self.device.done = max(self.device.done, self.number)

    def seconds_since(self, earlier: DeviceMark) -> float:
        return float(self.number**2 - earlier.number**2)


def test_a_step_is_told_when_it_is_done_and_the_host_is_one_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, told = Device(monkeypatch), []
    steps = Pace(CPU, lambda done, total: told.append((done, device.done, device.queued)), 4)

    for _ in range(4):
        steps.queued()
    steps.finish()

    assert [done for done, _, _ in told] == [1, 2, 3, 4]
    assert all(done == finished for done, finished, _ in told)
    assert [queued - done for done, _, queued in told] == [1, 1, 1, 0]
    assert steps.steps_s == (1.0, 3.0, 5.0, 7.0), "by the device's clock, not by when it was told"


def test_a_cancel_comes_with_one_step_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise Canceled

    steps = Pace(CPU, cancel, 9)
    steps.queued()
    steps.queued()
    with pytest.raises(Canceled):
        steps.queued()

    assert device.queued == 3


def test_what_a_step_shows_is_shown_after_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch)
    told: list[Any] = []
    steps = Pace(CPU, lambda done, total: told.append(done), 2)

    steps.queued(lambda: told.append("shown"))
    steps.queued()
    steps.finish()

    assert told == [1, "shown", 2]


def test_no_step_asks_the_device_for_a_number(engine: Any) -> None:
    drawn(engine, order())  # the prompts are known then
    transformer, seen = engine._pipe.transformer, Operators()
    # A new schedule reads its own, on the host, before the first step.
    hook = transformer.register_forward_pre_hook(lambda *_: first.append(len(seen.names)))
    first: list[int] = []
    with seen:
        engine.render(order(), on_step, None, Previews(2, lambda *_: None))
    hook.remove()

    seen.names = seen.names[first[0] :]
    assert len(seen.waits) == 1, "whether the picture is finite"


def test_only_whole_numbers_leave_the_device_and_one_wait_is_for_all(engine: Any) -> None:
    latents = torch.zeros((1, 16, 8, 8))
    with torch.inference_mode(), Operators() as seen:
        rgb = decoded(engine._pipe.vae, latents)
    assert len(rgb) == 64 * 64 * 3
    assert len(seen.waits) == 1

    with torch.inference_mode(), pytest.raises(RenderFailed, match="not finite"):
        decoded(engine._pipe.vae, latents * float("nan"))


def test_levels_of_bfloat16_are_rounded_in_float32(folder: Path) -> None:
    vae = loaded(entry_of(precision="bf16"), folder)._pipe.vae
    latents = torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.inference_mode():
        rgb = torch.frombuffer(bytearray(decoded(vae, latents)), dtype=torch.uint8)
        pixels = vae.decode(latents / 1.5305 + 0.0609, return_dict=False)[0][0].double()

    exact = (pixels * 127.5 + 127.5).clamp(0, 255).round().permute(1, 2, 0).flatten()
    assert (rgb.double() - exact).abs().max() <= 1
    assert ((rgb.double() - exact).abs() > 0).double().mean() < 0.02


# ---- prompts


@contextmanager
def encodings(engine: Any) -> Iterator[list[str]]:
    calls: list[str] = []
    hook = engine._pipe.text_encoder_3.register_forward_hook(lambda *_: calls.append("t5"))
    try:
        yield calls
    finally:
        hook.remove()


def test_a_picture_says_how_many_of_its_prompts_were_remembered(engine: Any) -> None:
    engine._prompts.clear()
    first = engine.render(order(), on_step)
    second = engine.render(order(prompt="a blue boat"), on_step)
    third = engine.render(order(guidance_scale=0.0), on_step)

    efforts = [picture.effort for picture in (first, second, third)]
    counts = [(e.prompts_remembered, e.prompts_encoded) for e in efforts]
    assert counts == [(0, 2), (1, 1), (1, 0)]


def memory(engine: Any, prompts: int) -> Prompts:
    one = engine._prompts.embed("a lamp")
    size_bytes = sum(tensor.nbytes for tensor in one)
    return Prompts(engine._pipe, CPU, 32, engine._ladder, prompts * size_bytes)


def test_what_is_remembered_is_bounded_by_its_bytes_and_the_oldest_goes(engine: Any) -> None:
    prompts = memory(engine, 2)
    with torch.inference_mode():
        for words in ("one", "two", "one", "three"):
            prompts.embed(words)
        assert prompts.counts == (1, 3)
        with encodings(engine) as calls:
            prompts.embed("one")
            prompts.embed("three")
            assert calls == []
            prompts.embed("two")
            assert calls == ["t5"]


def test_the_empty_prompt_is_never_forgotten(engine: Any) -> None:
    prompts = memory(engine, 2)
    with torch.inference_mode():
        for words in ("", "one", "two", "three", "four"):
            prompts.embed(words)
        with encodings(engine) as calls:
            prompts.embed("")

    assert calls == []


def test_other_adapters_in_the_encoders_are_another_embedding(engine: Any) -> None:
    prompts = memory(engine, 9)
    with torch.inference_mode():
        prompts.embed("a lamp")
        prompts.embed("a lamp", ("style", 0.5))
        prompts.embed("a lamp", ("style", 0.5))

    assert prompts.counts == (1, 2)


def test_for_a_known_prompt_resting_encoders_are_not_moved(engine: Any) -> None:
    prompts = memory(engine, 9)
    with torch.inference_mode():
        prompts.embed("a lamp")
    moved: list[str] = []

    class Resting:
        @contextmanager
        def encoders(self) -> Iterator[None]:
            moved.append("here")
            yield

    prompts._ladder = Resting()  # type: ignore[assignment]
    with torch.inference_mode():
        prompts.embed("a lamp")
        assert moved == []
        prompts.embed("a lighthouse")
    assert moved == ["here"]


# ---- previews


@pytest.fixture(scope="module")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taesd3")
    torch.manual_seed(1)
    channels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    AutoencoderTiny(latent_channels=16, **channels, **blocks).save_pretrained(folder)
    return folder


def test_an_entry_may_name_a_small_decoder_for_its_previews(
    engine: Any, folder: Path, tiny_decoder: Path
) -> None:
    sketched = loaded(entry_of(preview_decoder=str(tiny_decoder)), folder)
    seen: list[Any] = []

    picture = sketched.render(order(steps=6), on_step, None, Previews(2, lambda *a: seen.append(a)))

    assert [(number, width, height) for number, _, width, height in seen] == [
        (0, 64, 64),
        (1, 64, 64),
    ]
    assert all(len(set(rgb)) > 3 for _, rgb, _, _ in seen)
    assert picture.rgb == drawn(engine, order(steps=6))


@pytest.mark.parametrize("width", [1024, 2048])
def test_a_sketch_has_at_most_512_px(folder: Path, tiny_decoder: Path, width: int) -> None:
    look = loaded(entry_of(preview_decoder=str(tiny_decoder)), folder)._denoiser.look
    with torch.inference_mode():
        assert look.seen(torch.zeros((1, 16, 8, width // 8))).shape[1] == 512


@pytest.mark.parametrize("named", ["nowhere", "."])
def test_a_small_decoder_that_is_none_is_refused(folder: Path, tmp_path: Path, named: str) -> None:
    with pytest.raises(ModelError, match="preview_decoder"):
        loaded(entry_of(preview_decoder=str(tmp_path / named)), folder)
