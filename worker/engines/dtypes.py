"""The precisions of arithmetic as torch's dtypes. Libraries take a name too, and read it as float32."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
