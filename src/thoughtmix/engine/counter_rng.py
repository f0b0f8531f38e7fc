"""Random numbers by key: what thought, layer and branch draw depends on those names alone, on any device.

A counter-based generator (Salmon et al. 2011): the number is a hash of the key and its index, so that rows need no
loop, no generator object and no order. The hash is SplitMix64's (Steele, Lea and Flood 2014), whose stream of one seed
is exactly finalise(seed + index * golden).
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed 64-bit number; products wrap, as they must
_A = 0xBF58476D1CE4E5B9 - 2**64
_B = 0x94D049BB133111EB - 2**64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _finalise(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _A
    x = (x ^ _shift(x, 27)) * _B
    return x ^ _shift(x, 31)


def key(seeds: Tensor, *names: Tensor | int) -> Tensor:
    """Fold names (branch, layer, ...), broadcast against each other, into seeds: int64 keys of the broadcast shape."""
    out = _finalise(seeds + _GOLDEN)
    for name in names:
        out = _finalise(out ^ _finalise((name if isinstance(name, Tensor) else torch.tensor(name)) + _A))
    return out


def uniform(keys: Tensor, size: int) -> Tensor:
    """(...,) keys -> (..., size) float64 in (0, 1), 53 bits each; never 0 or 1."""
    index = torch.arange(1, size + 1, device=keys.device)
    bits = _shift(_finalise(keys[..., None] + index * _GOLDEN), 11)
    return (bits.double() + 0.5) * 2.0**-53


def normal(keys: Tensor, size: int) -> Tensor:
    """(..., size) float32 standard normal, by the inverse of its distribution function."""
    return torch.special.ndtri(uniform(keys, size)).float()


def gumbel(keys: Tensor, size: int) -> Tensor:
    """(..., size) float32 standard Gumbel, -log(-log u)."""
    return (-(-uniform(keys, size).log()).log()).float()
