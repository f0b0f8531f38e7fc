"""Randomness that belongs to one thought: no global generator is read or moved, no neighbour is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# What a thought draws for. Each purpose is its own stream, so drawing more of one changes none of the others.
TOKENS = 0
ROUTE = 1
NOISE = 2
DISTILLER = 3


def generator(seed: int, stream: int = TOKENS) -> np.random.Generator:
    """The generator of (seed, stream). All 64 bits of the seed count; near seeds give unrelated streams
    (torch's CPU generator keeps 32 bits of a seed, so that 0 and 2**32 would give the same thought)."""
    return np.random.default_rng([seed % 2**64, stream])


def uniforms(
    seeds: Sequence[int], steps: int, device: torch.device | str = "cpu", drawn: Sequence[int] | None = None
) -> Tensor:
    """(rows, steps) float64 in [0, 1): row i is drawn by seed i alone; a longer draw begins with the shorter.

    drawn: (rows,) of row i's stream so many numbers are passed over: they were drawn before.
    """
    rows = [_uniforms(seed, steps, skip) for seed, skip in zip(seeds, drawn or [0] * len(seeds), strict=True)]
    return torch.from_numpy(np.stack(rows) if rows else np.zeros((0, steps))).to(device)


def _uniforms(seed: int, steps: int, skip: int) -> np.ndarray:
    own = generator(seed)
    if skip:
        own.bit_generator.advance(skip)  # type: ignore[attr-defined]  # PCG64; a double takes one draw of it
    return own.random(steps)


def arithmetic_offset(seed: int, prompt: Sequence[int], routed: bool = False) -> float:
    """A point of [0, 1) for arithmetic sampling (Vilnis et al. 2023), the seed's own: the seed's bits mirrored behind
    the binary point (van der Corput 1935), shifted by the prompt. Any 2^m neighbouring seeds fall into the 2^m equal
    parts of [0, 1), one each, so that their thoughts lie far apart in the model's distribution; a seed alone is
    uniform. routed: the second coordinate of Sobol's sequence (1967) instead, for thoughts whose route is drawn by the
    first: over many seeds every part then meets every route."""
    number, digit = 0, 1 << 47
    for place in range(48):
        number ^= digit * (seed >> place & 1)
        digit = digit ^ digit >> 1 if routed else digit >> 1
    shift = int.from_bytes(hashlib.blake2b(np.asarray(prompt, dtype="<i8").tobytes(), digest_size=6).digest())
    return (number + shift) % 2**48 / 2**48
