"""What each technique of the engine is worth on this machine: ratios to diffusers, side by side.

    python -m benchmarks.engine [--size normal] [--side 64] [--steps 28] [--rounds 7]

Every round draws once by each way, so that a busy moment hits all alike; a ratio is the median over
rounds of (seconds of plain diffusers / seconds of the way). It runs on a CPU and a tiny model: what
a GPU gains by waiting less and reading less does not show here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.diffusers_sd3 import DiffusersSD3
from worker.loading.load import load
from worker.loading.locate import locate

Draw = Callable[[RenderSpec], object]


def order(entry: ModelEntry, args: argparse.Namespace, **changes: object) -> RenderSpec:
    fields = {"model": entry.id, "model_digest": entry.digest, "prompt": "a red fox in the snow"}
    size = {"width": args.side, "height": args.side, "steps": args.steps}
    rest = {"guidance_scale": 4.5, "shift": 3.0, "seed": 7}
    return RenderSpec.model_validate({**fields, **size, **rest, **changes})


def diffusers_way(folder: Path, entry: ModelEntry) -> Draw:
    """The pipeline as its manual shows it."""
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def draw(spec: RenderSpec) -> object:
        pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
        return pipe(
            spec.prompt,
            negative_prompt=spec.negative_prompt,
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance_scale,
            max_sequence_length=entry.max_sequence_length,
            generator=torch.Generator("cpu").manual_seed(spec.seed),
        ).images[0]

    return draw


def our_way(engine: DiffusersSD3, **changes: object) -> Draw:
    def draw(spec: RenderSpec) -> object:
        return engine.render(spec.model_copy(update=changes), lambda done, total: None).rgb

    return draw


def without_tables(engine: DiffusersSD3) -> Draw:
    def draw(spec: RenderSpec) -> object:
        tables, engine._denoiser._modulation = engine._denoiser._modulation, None
        try:
            return our_way(engine)(spec)
        finally:
            engine._denoiser._modulation = tables

    return draw


def with_new_prompts(engine: DiffusersSD3) -> Draw:
    def draw(spec: RenderSpec) -> object:
        engine._prompts.clear()
        return our_way(engine)(spec)

    return draw


def ways(entry: ModelEntry, args: argparse.Namespace, folder: Path) -> dict[str, Draw]:
    settings = Settings(model_cache_dir=folder)
    engine = load(entry, settings, "cpu")
    assert isinstance(engine, DiffusersSD3)
    chosen = {
        "diffusers": diffusers_way(locate(entry, settings), entry),
        "ours": our_way(engine),
        "ours, every prompt new": with_new_prompts(engine),
        "ours, no tables of the modulation": without_tables(engine),
        "ours, preset balanced": our_way(engine, preset="balanced"),
        "ours, preset draft": our_way(engine, preset="draft"),
    }
    if args.compile:
        compiled = load(entry.model_copy(update={"compile": "regional"}), settings, "cpu")
        assert isinstance(compiled, DiffusersSD3)
        chosen["ours, compiled by regions"] = our_way(compiled)
    return chosen


def apart(a: object, b: object) -> float:
    """Mean difference of their samples, 0 to 255."""
    first, second = (
        np.frombuffer(one, np.uint8) if isinstance(one, bytes) else np.asarray(one).ravel()
        for one in (a, b)
    )
    return float(abs(first.astype(int) - second.astype(int)).mean())


def timed(draw: Draw, spec: RenderSpec) -> float:
    started = time.perf_counter()
    draw(spec)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="normal", help="of the tiny model: small, normal, large")
    parser.add_argument("--side", type=int, default=64, help="px")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also compiled: takes minutes first")
    args = parser.parse_args()
    entry = ModelEntry(
        id="bench", source=f"tiny:size={args.size}", precision="fp32", max_sequence_length=77,
        min_side_px=16, width=args.side, height=args.side,
    )  # fmt: skip
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        chosen, spec = ways(entry, args, Path(folder)), order(entry, args)
        pictures = {name: draw(spec) for name, draw in chosen.items()}  # the first is a warm-up
        rounds = [{n: timed(d, spec) for n, d in chosen.items()} for _ in range(args.rounds)]
    print(f"tiny {args.size}, {args.side} px, {args.steps} steps, torch {torch.__version__}, CPU")
    for name in chosen:
        seconds = median(one[name] for one in rounds)
        ratio = median(one["diffusers"] / one[name] for one in rounds)
        far = apart(pictures["diffusers"], pictures[name])
        print(f"{name:36} {seconds * 1000:8.0f} ms {ratio:6.2f} x {far:8.2f} levels apart")


if __name__ == "__main__":
    main()
