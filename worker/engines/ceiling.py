"""What a device reaches on large matrix products: the rate that a render is measured against."""

from __future__ import annotations

import time
from typing import Literal

import torch

from worker.engines.dtypes import DTYPES

LIMIT_S = 0.1  # for the measured part; making and warming up take about as long
REPEATS = 20
# Like the feed-forward of SD3.5 at 1024 px on a card, 160 MB in 16 bits; small on a CPU.
ON_A_CARD, ON_A_CPU = (8192, 4096, 4096), (256, 512, 512)


def matrix_rate(device: torch.device, precision: Literal["fp32", "bf16", "fp16"]) -> float | None:
    """FLOP/s of the fastest of some products in `precision`; None where there is no memory for them.

    Random numbers, since zeros would draw less power and run faster than weights do.
    """
    rows, inner, columns = ON_A_CPU if device.type == "cpu" else ON_A_CARD
    try:
        dtype = DTYPES[precision]
        a = torch.randn((rows, inner), device=device, dtype=dtype)
        b = torch.randn((inner, columns), device=device, dtype=dtype)
        return 2 * rows * inner * columns / _fastest_s(a, b)
    except torch.OutOfMemoryError:
        return None


def _fastest_s(a: torch.Tensor, b: torch.Tensor) -> float:
    out = a @ b  # the first is slow: libraries load, kernels are chosen
    _wait(a.device)
    fastest, give_up_at = float("inf"), time.perf_counter() + LIMIT_S
    for _ in range(REPEATS):
        started = time.perf_counter()
        torch.matmul(a, b, out=out)
        _wait(a.device)
        fastest = min(fastest, time.perf_counter() - started)
        if time.perf_counter() > give_up_at:
            break
    return fastest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
