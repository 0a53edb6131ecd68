"""Compiling, with backends that a CPU has at once: the traps are the tracer's, not the kernels'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from shared.errors import RenderFailed
from shared.models import ModelEntry
from shared.settings import Settings
from tests.engines import apart, drawn, entry_of, loaded, order
from worker.loading import compiling
from worker.loading.kernels import Kernels, kernels_of
from worker.loading.load import load
from worker.loading.steps import untold

LIMIT = 1  # of shapes, in place of torch's own 8, so that a second one is over it
SIDES_PX = (64, 80)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=LIMIT, accumulated_recompile_limit=256):
        yield
    torch._dynamo.reset()


def compiled(entry: ModelEntry, folder: Path, backend: Any = "eager") -> Any:
    """An engine with a marked transformer. Its decoder is not: tracing that takes long."""
    engine = loaded(entry.model_copy(update={"compile": "off"}), folder)
    engine._entry = entry
    if entry.compile == "full":
        engine._denoiser._modulation = None
    compiling.mark(engine._pipe, entry, "cpu", 1, untold, backend)
    engine._pipe.vae.decoder._compiled_call_impl = None
    return engine


def velocity(transformer: Any, side_px: int, batch: int = 1, fill: float = 1.0) -> torch.Tensor:
    config = transformer.config
    with torch.inference_mode():
        made: torch.Tensor = transformer(
            hidden_states=torch.full((batch, 16, 8, side_px // 8), fill),
            encoder_hidden_states=torch.ones(batch, 109, config.joint_attention_dim),
            pooled_projections=torch.ones(batch, config.pooled_projection_dim),
            timestep=torch.ones(batch),
            return_dict=False,
        )[0]
    return made


def graphs_made() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_more_sizes_than_torch_allows_are_drawn_and_all_as_without(folder: Path) -> None:
    transformer = compiled(entry_of(compile="full"), folder)._pipe.transformer
    stock = loaded(entry_of(), folder)._pipe.transformer

    for side in SIDES_PX:
        close = velocity(stock, side)
        assert (velocity(transformer, side) - close).abs().max() < 1e-4 * close.abs().max()


def test_torchs_limit_is_an_exception_and_no_slow_way(folder: Path) -> None:
    transformer = compiled(entry_of(compile="full"), folder)._pipe.transformer
    torch._dynamo.config.recompile_limit = LIMIT
    velocity(transformer, 64)

    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        velocity(transformer, 80)


def test_no_size_that_was_warmed_is_compiled_again(folder: Path) -> None:
    entry = entry_of(compile="full", warm_sizes=("96x64",), guidance_scale=0.0)
    engine = compiled(entry, folder)
    engine.warm_up()
    warmed = graphs_made()

    for spec in (order(guidance_scale=0.0), order(width=96, steps=2, guidance_scale=0.0)):
        drawn(engine, spec)
    assert graphs_made() == warmed
    drawn(engine, order(width=80, steps=1, guidance_scale=0.0))
    assert graphs_made() > warmed


def test_steps_and_tables_compile_nothing_anew(folder: Path) -> None:
    engine = compiled(entry_of(compile="regional"), folder)
    engine.warm_up()
    warmed = graphs_made()

    for spec in (order(), order(steps=2, seed=8), order(preset="draft"), order(width=96)):
        drawn(engine, spec)
    assert graphs_made() == warmed


@pytest.mark.slow
def test_what_is_compiled_draws_what_is_not(folder: Path) -> None:
    engine = compiled(entry_of("normal", compile="regional"), folder)
    stock = loaded(entry_of("normal"), folder)

    for spec in (order(steps=7), order(preset="draft", steps=8), order(width=96)):
        assert apart(drawn(engine, spec), drawn(stock, spec)) <= 1


def test_an_answer_that_a_graph_writes_over_is_kept_while_it_is_needed(folder: Path) -> None:
    kept: dict[Any, Any] = {}

    def overwriting(graph: Any, _inputs: Any) -> Any:  # as CUDA graphs do
        def run(*args: Any) -> Any:
            made = graph(*args)
            place = kept.setdefault(id(graph), [torch.empty_like(each) for each in made])
            return [held.copy_(new) for held, new in zip(place, made, strict=True)]

        return run

    transformer = compiled(entry_of(compile="full"), folder, overwriting)._pipe.transformer
    first = velocity(transformer, 64)
    before = first.clone()
    assert not torch.equal(velocity(transformer, 64, fill=0.0), before)

    assert torch.equal(first, before)


def test_graphs_of_one_thread_are_refused_to_another(folder: Path) -> None:
    engine = loaded(entry_of(), folder)
    engine._entry = entry_of(compile="full")  # not marked: who may call does not depend on it
    engine.warm_up()
    seen: list[BaseException] = []

    def draw() -> None:
        try:
            drawn(engine, order())
        except RenderFailed as error:
            seen.append(error)

    thread = Thread(target=draw)
    thread.start()
    thread.join(60)

    assert "thread" in str(seen[0])


def test_the_decoder_is_laid_out_for_convolutions_and_draws_the_same(folder: Path) -> None:
    vae, stock = loaded(entry_of(), folder)._pipe.vae, loaded(entry_of(), folder)._pipe.vae
    compiling.mark_decoder(vae, {"backend": "eager"})
    latents = torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(1))

    with torch.inference_mode():
        far = (vae.decode(latents).sample - stock.decode(latents).sample).abs().max()

    assert vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert graphs_made() > 0
    assert far < 1e-5


def test_loading_compiles_before_the_worker_is_ready(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, told = compiling.mark, []
    monkeypatch.setattr(compiling, "mark", lambda *given: mark(*given, "eager"))
    entry, settings = entry_of(compile="full"), Settings(model_cache_dir=folder)
    monkeypatch.setattr(compiling, "mark_decoder", lambda *given: None)

    engine = load(entry, settings, "cpu", lambda *step: told.append(step))
    warmed = graphs_made()
    drawn(engine, order())

    assert ("compile", "done") in told
    assert warmed > 1, "with guidance and without"
    assert graphs_made() == warmed


def test_off_compiles_nothing(folder: Path) -> None:
    drawn(loaded(entry_of(), folder), order())

    assert graphs_made() == 0


def test_no_more_processes_compile_than_the_settings_say(folder: Path) -> None:
    from torch._inductor import config

    with config.patch(compile_threads=32):
        compiling.mark(
            loaded(entry_of(), folder)._pipe, entry_of(compile="full"), "cpu", 3, untold, "eager"
        )
        assert config.compile_threads == 3


@pytest.mark.parametrize("damage", [b"", b"\x80rubbish" * 9])
def test_a_damaged_file_of_kernels_is_passed_over_with_a_warning(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    kernels = Kernels(tmp_path / "a.kernels")
    kernels.file.write_bytes(damage)

    kernels.load()

    assert not kernels.loaded
    [line] = [r for r in caplog.records if getattr(r, "action", "") == "kernels_ignored"]
    assert line.levelname == "WARNING"


def test_without_a_file_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Kernels(tmp_path / "none.kernels").load()

    assert not caplog.records


def test_every_other_setup_has_another_file(tmp_path: Path, monkeypatch: Any) -> None:
    entry = entry_of(compile="full")
    changes: list[dict[str, Any]] = [
        {}, {"compile": "regional"}, {"warm_sizes": ("96x64",)}, {"attention": "math"},
        {"fuse_qkv": True},
    ]  # fmt: skip
    files = {kernels_of(entry.model_copy(update=one), tmp_path, "cpu").file for one in changes}
    monkeypatch.setattr("worker.loading.kernels.version", lambda name: "another")
    files.add(kernels_of(entry, tmp_path, "cpu").file)

    assert len(files) == len(changes) + 1
    assert kernels_of(entry, tmp_path, "cpu") == kernels_of(entry, tmp_path, "cpu")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # in Inductor's own code
def test_kernels_are_kept_for_the_next_start(tmp_path: Path) -> None:
    from torch._inductor.utils import fresh_cache

    def start(kernels: Kernels) -> int:
        """Kernels found in the caches, by a machine that has compiled nothing before."""
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        with fresh_cache():
            kernels.load()
            torch.compile(lambda x: x * 3 + 1)(torch.ones(5))
            kernels.save()
        return int(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])

    assert start(Kernels(tmp_path / "a.kernels")) == 0
    size_bytes = (tmp_path / "a.kernels").stat().st_size
    assert start(Kernels(tmp_path / "a.kernels")) == 1
    assert (tmp_path / "a.kernels").stat().st_size == size_bytes
