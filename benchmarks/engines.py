"""The diffusers engine and the ONNX engine side by side, on one CPU thread, in turns.

    python -m benchmarks.engines [--size normal] [--side 256] [--steps 8] [--rounds 15]

Builds and exports a tiny model in a temporary folder. Prints milliseconds and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from shared.jobs import RenderSpec
from shared.models import ModelEntry
from shared.settings import Settings
from worker.engines.port import Renderer
from worker.loading.export import export
from worker.loading.load import load

PARTS = ("denoise", "decode")


def entries(folder: Path, settings: Settings, size: str) -> dict[str, ModelEntry]:
    source = ModelEntry(
        id="m", source=f"tiny:size={size}", precision="fp32", max_sequence_length=77, min_side_px=16
    )
    found = {"diffusers fp32": source}
    for precision in ("fp32", "int8"):
        into = folder / precision
        found[f"onnx {precision}"] = export(source, settings, into, precision=precision, say=print)
    return found


def measure(engines: dict[str, Renderer], spec: RenderSpec, rounds: int) -> dict[str, list[float]]:
    """Median milliseconds of each part, by engine; each round asks every engine once."""
    times: dict[str, dict[str, list[float]]] = {n: {p: [] for p in PARTS} for n in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            told = engine.render(spec, lambda done, total: None).timings_s
            for part in PARTS:
                times[name][part].append(told[part] * 1e3)
    return {name: [statistics.median(t[part]) for part in PARTS] for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", default="normal", choices=("small", "normal", "large"))
    parser.add_argument("--side", type=int, default=256, help="px")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(model_cache_dir=folder / "cache")
        engines = {
            name: load(entry, settings, "cpu")
            for name, entry in entries(folder, settings, args.size).items()
        }
        spec = RenderSpec(
            model="m", model_digest="0" * 64, prompt="a lighthouse at dusk", width=args.side,
            height=args.side, steps=args.steps, guidance_scale=4.5, shift=3.0, seed=7,
        )  # fmt: skip
        results = measure(engines, spec, args.rounds)
    base = sum(results["diffusers fp32"])
    print(
        f"\ntiny {args.size}, {args.side} px, {args.steps} steps, guidance, one thread: median ms"
    )
    print(f"{'':16}{'denoise':>10}{'decode':>10}{'ratio':>10}")
    for name, (denoise, decode) in results.items():
        print(f"{name:16}{denoise:10.1f}{decode:10.1f}{(denoise + decode) / base:10.2f}")


if __name__ == "__main__":
    main()
