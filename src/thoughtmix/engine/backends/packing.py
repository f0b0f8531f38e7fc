"""Weights packed once, and the products over them that a decoding step and prefill are made of.

    native  F.linear in the model's own dtype, nothing copied
    fp16    weights in IEEE half, products summed in float32 (FBGEMM); inputs and outputs are float32
    bf16    weights and inputs in bfloat16, products summed in float32 (oneDNN, AVX512-bf16 or AMX); what a product
            gives is rounded to bfloat16 (logits: see `Bf16Logits`), all else stays float32

On CPUs torch's float32 `F.linear` repacks the weight on each call; packed once in 16 bits it is read faster (measured:
benchmarks/decode.py, docs/LOG.md). 8- and 4-bit weights were tried and left out: docs/LOG.md, 2026-11-23.

**Batch invariance** (law 5). oneDNN chooses kernels by the number of rows, and kernels that sum in another order round
otherwise. So bf16 products are made at few heights only, those whose kernels were seen to sum in the same order as the
kernel for `_BLOCK` rows (`equal_heights`); rows between two heights are filled up, more rows than the largest are
several products. Then a row's bits do not depend on how many rows stand beside it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.models.tried import Kind

Linear = Callable[[Tensor], Tensor]  # (rows, inputs) -> (rows, outputs)
_LARGEST_HALF = 65504
"""The largest number that IEEE half holds."""
_BLOCK = 32
"""Rows of the bf16 product that all others must equal: AMX has tiles of 16 rows, and at one row the cost is reading the
weights."""
_HEIGHTS = (1, 2, 4, 8, 16, 64, 128, 256, 512)
_DEVIATIONS = 6.0
"""Of logits, from their mean to the likeliest tokens: about 5.5 of those of a text, whose deviation is a little larger
than that of arbitrary tokens."""
_MOST_OUTPUTS = 2**23
"""Numbers that a product at a tried height may give: of 49,152 tokens 128 rows."""


def pack(weight: Tensor, bias: Tensor | None, kind: Kind) -> Linear:
    """A function x (rows, inputs) -> x W^T + b. weight: (outputs, inputs); it is not modified."""
    if kind == "bf16":
        return Bf16Linear(weight, bias)
    if kind == "fp16":
        low, high = weight.aminmax()
        if max(-float(low), float(high)) > _LARGEST_HALF:
            weight, bias = weight.float(), None if bias is None else bias.float()
        else:
            return _fp16(weight, bias)
    return lambda x: F.linear(x, weight, bias)


def _fp16(weight: Tensor, bias: Tensor | None) -> Linear:
    packed = torch.ops.quantized.linear_prepack_fp16(
        weight.float().contiguous(), None if bias is None else bias.float()
    )
    product = torch.ops.quantized.linear_dynamic_fp16
    return lambda x: product(x, packed)


def pack_gated(gate: Tensor, up: Tensor, biases: tuple[Tensor, Tensor] | None, kind: Kind) -> Linear:
    """A function x (rows, inputs) -> silu(x G^T) * (x U^T). gate, up: (outputs, inputs)."""
    if kind == "bf16":
        gated = Bf16Linear(gate, None if biases is None else biases[0], "swish")
        upper = Bf16Linear(up, None if biases is None else biases[1], "mul")
        return lambda x: upper(x, gated(x))
    both = pack(torch.cat([gate, up]), None if biases is None else torch.cat(biases), kind)

    def product(x: Tensor) -> Tensor:
        low, high = both(x).chunk(2, -1)
        return F.silu(low).mul_(high)

    return product


class Bf16Linear:
    """x (rows, inputs), of any float dtype -> x W^T + b (rows, outputs), bfloat16.

    Args:
        weight: (outputs, inputs)
        bias: (outputs,)
        after: What is done to the sum before it is rounded: none, swish (x sigmoid(x)) or mul, by a second argument
            (rows, outputs).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, after: str = "none") -> None:
        self.bias = None if bias is None else bias.bfloat16()
        self._product = _bf16_product(weight.bfloat16(), after)
        self._heights = equal_heights(*weight.shape, bias is not None, after, torch.get_num_threads())

    def __call__(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        x = x.bfloat16()
        rows, largest = len(x), self._heights[-1]
        if rows <= largest:
            return self._at_height(x, other)
        others = itertools.repeat(None) if other is None else other.split(largest)
        return torch.cat([self._at_height(*both) for both in zip(x.split(largest), others, strict=False)])

    def _at_height(self, x: Tensor, other: Tensor | None) -> Tensor:
        rows = len(x)
        height = next(height for height in self._heights if height >= rows)
        if height > rows:
            fill = (0, 0, 0, height - rows)
            x, other = F.pad(x, fill), None if other is None else F.pad(other, fill)
        return self._product(x, other, self.bias)[:rows]


class Bf16Logits:
    """Logits (rows, vocabulary), float32, of hidden states (rows, width): a bf16 product that is rounded about where
    tokens are drawn.

    bfloat16 has steps of 1/8 from 16 on, where the likeliest tokens' logits lie, and steps of 1/64 or less below 4. So
    what all tokens of a row have in common, x times the mean row of W, and an offset are taken off before the sum is
    rounded and added again in float32.

    Args:
        weight: (vocabulary, width)
        bias: (vocabulary,)
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._mean, self._offset = weight.float().mean(0), 0.0
        self._bias = weight.new_zeros(len(weight)) if bias is None else bias
        self._linear = Bf16Linear(weight - self._mean, self._bias)

    def settle(self, hidden: Tensor) -> None:
        """Choose the offset: of a few hidden states (rows, width), so many deviations above the mean logit as the
        likeliest tokens of a text are."""
        self._offset = _DEVIATIONS * float(self._linear(hidden).float().std(-1).mean())
        self._linear.bias = (self._bias - self._offset).bfloat16()
        self._offset = -float((self._linear.bias.float() - self._bias).mean())  # as rounded

    def __call__(self, x: Tensor) -> Tensor:
        return self._linear(x).float().add_((x.float() * self._mean).sum(-1, keepdim=True).add_(self._offset))


def _bf16_product(weight: Tensor, after: str) -> Callable[[Any, Tensor | None, Tensor | None], Tensor]:
    """oneDNN's product of x, what comes after, and a bias, over a weight in the layout that its kernels for one row
    take: those for more rows take it, too, and sum in the same order as far as the number of inputs allows it."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 1)
    if after == "mul":
        binary = torch.ops.mkldnn._linear_pointwise.binary
        return lambda x, other, bias: binary(x, other, packed, bias, after)
    plain = torch.ops.mkldnn._linear_pointwise.default
    return lambda x, other, bias: plain(x, packed, bias, after, [], "")


@functools.cache
def equal_heights(outputs: int, inputs: int, bias: bool, after: str, threads: int) -> tuple[int, ...]:
    """Numbers of rows, ascending, at which bf16 products of this shape have the same bits a row.

    They are found out with weights whose second half cancels the first: what is left of the sum is its rounding, so
    that another order of summing shows in nearly every number. No random state is read.
    """
    half = inputs // 2
    some = torch.arange(min(outputs, 64) * half, dtype=torch.float32).sin_().view(-1, half).bfloat16()
    weight = torch.cat([some, -some.flip(1), some.new_zeros(len(some), inputs - 2 * half)], 1)
    weight = weight.repeat(-(-outputs // len(some)), 1)[:outputs]
    highest = max(_BLOCK, *(h for h in _HEIGHTS if h * outputs <= _MOST_OUTPUTS), 0)
    rows = torch.arange(highest * half, dtype=torch.float32).cos_().view(-1, half).bfloat16()
    x = torch.cat([rows, rows.flip(1), rows.new_zeros(highest, inputs - 2 * half)], 1)
    product = _bf16_product(weight, after)
    zero = weight.new_zeros(outputs) if bias else None
    one = x.new_ones(highest, outputs) if after == "mul" else None

    def made(start: int, height: int) -> Tensor:
        return product(x[start : start + height], None if one is None else one[:height], zero)

    want = torch.cat([made(start, _BLOCK) for start in range(0, highest, _BLOCK)])

    def equal(height: int) -> bool:
        return torch.equal(made(0, height), want[:height])

    return tuple(sorted({_BLOCK, *(h for h in _HEIGHTS if h <= highest and equal(h))}))
