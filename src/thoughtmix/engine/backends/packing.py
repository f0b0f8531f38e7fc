"""Matrix products with weights packed once for few rows.

A decoding step multiplies 1 to ~64 rows by every weight of the model, so it is bound by reading weights.
On CPUs torch's float32 `F.linear` repacks the weight on each call; weights packed
once in 16 bits are read faster (measured: benchmarks/decode.py, docs/LOG.md). Kinds:

    native  F.linear in the model's own dtype, nothing copied
    fp16    weights in IEEE half, products summed in float32 (FBGEMM); inputs stay float32

8- and 4-bit weights were tried and left out: docs/LOG.md, 2026-11-23.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = Literal["native", "fp16"]
Linear = Callable[[Tensor], Tensor]  # (rows, inputs) -> (rows, outputs)


def pack(weight: Tensor, bias: Tensor | None, kind: Kind) -> Linear:
    """A function x (rows, inputs) -> x W^T + b. weight: (outputs, inputs); it is not modified."""
    if kind == "native":
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.quantized.linear_prepack_fp16(
        weight.float().contiguous(), None if bias is None else bias.float()
    )
    product = torch.ops.quantized.linear_dynamic_fp16
    return lambda x: product(x, packed)
