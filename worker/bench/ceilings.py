"""What the parts of a step reach alone on this device, at SD3.5 Large's and Medium's shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from shared.flops import TERA
from worker.bench.plan import Run
from worker.bench.watch import now
from worker.loading.devices import pick_device, set_threads

# Guided at 1024 px: 2 x (4096 image tokens + 333 of text), in and out of Large's layers.
TOKENS = 8858
PRODUCTS = ((2432, 9728), (9728, 2432), (2432, 7296))
ATTENTIONS = {"large joint": (38, 4429), "medium joint": (24, 4429), "medium image": (24, 4096)}
KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
COPY_BYTES = 4 * 2**30
LIMIT_S, REPEATS = 1.0, 20
Call = Callable[[], Any]


def ceiling_rows(run: Run) -> Iterator[dict[str, Any]]:
    """One row each; what this build or device lacks is a row with the reason."""
    place = pick_device(run.device)
    set_threads(0, place)
    device, shrink = torch.device(place), 64 if run.tiny else 1
    for inner, outer in PRODUCTS:
        yield from _products(device, TOKENS // shrink, inner // shrink, outer // shrink)
    for name, (heads, length) in ATTENTIONS.items():
        yield from _attentions(device, name, heads, length // shrink)
    source = torch.empty(COPY_BYTES // shrink, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    row = _row("copy", 2 * source.numel(), lambda: target.copy_(source), device)
    yield {"ceiling": "copy", "tb_per_s": row.get("tflop_per_s"), "error": row.get("error")}


def _products(device: torch.device, rows: int, inner: int, outer: int) -> Iterator[dict[str, Any]]:
    a = torch.randn(rows, inner, device=device, dtype=torch.bfloat16)
    b = torch.randn(outer, inner, device=device, dtype=torch.bfloat16) * 0.02
    shape, flop = f"{rows} x {inner} x {outer}", 2 * rows * inner * outer
    yield _row(f"product bf16 {shape}", flop, lambda: a @ b.t(), device)
    yield _row(f"product fp8 {shape}", flop, _fp8(a, b), device)


def _fp8(a: torch.Tensor, b: torch.Tensor) -> Call:
    """One scale per row on both sides, as the engine's FP8 has; quantizing itself is not timed."""
    limit = torch.finfo(torch.float8_e4m3fn).max
    scale_a = a.abs().amax(1, keepdim=True).float() / limit
    scale_b = b.abs().amax(1, keepdim=True).float() / limit
    small_a = (a / scale_a).to(torch.float8_e4m3fn)
    small_b = (b / scale_b).to(torch.float8_e4m3fn)
    return lambda: torch._scaled_mm(
        small_a,
        small_b.t(),
        scale_a=scale_a,
        scale_b=scale_b.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _attentions(
    device: torch.device, name: str, heads: int, length: int
) -> Iterator[dict[str, Any]]:
    q, k, v = (
        torch.randn(2, heads, length, 64, device=device, dtype=torch.bfloat16) for _ in range(3)
    )
    for kernel in KERNELS:

        def call(kernel: SDPBackend = kernel) -> torch.Tensor:
            with sdpa_kernel(kernel):
                return scaled_dot_product_attention(q, k, v)

        label = f"attention {name} {kernel.name.lower().removesuffix('_attention')}"
        yield _row(label, 4 * 2 * heads * length**2 * 64, call, device)


def _row(name: str, flop: float, call: Call, device: torch.device) -> dict[str, Any]:
    try:
        return {"ceiling": name, "tflop_per_s": flop / _median_s(call, device) / TERA}
    except Exception as error:  # a kernel that is missing is a finding, not an end
        return {"ceiling": name, "error": f"{type(error).__name__}: {error}".splitlines()[0][:160]}


def _median_s(call: Call, device: torch.device) -> float:
    for _ in range(3):
        call()
    times: list[float] = []
    give_up_at = time.perf_counter() + LIMIT_S
    while len(times) < REPEATS and (not times or time.perf_counter() < give_up_at):
        started = now(device)
        call()
        times.append(now(device) - started)
    return median(times)
