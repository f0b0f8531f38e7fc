"""Randomness that belongs to one thought: no global generator is read or moved, no neighbour is seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# What a thought draws for. Each purpose is its own stream, so drawing more of one changes none of the others.
TOKENS = 0
ROUTE = 1
NOISE = 2


def generator(seed: int, stream: int = TOKENS) -> np.random.Generator:
    """The generator of (seed, stream). All 64 bits of the seed count; near seeds give unrelated streams
    (torch's CPU generator keeps 32 bits of a seed, so that 0 and 2**32 would give the same thought)."""
    return np.random.default_rng([seed % 2**64, stream])


def uniforms(seeds: Sequence[int], steps: int, device: torch.device | str = "cpu") -> Tensor:
    """(rows, steps) float64 in [0, 1): row i is drawn by seed i alone; a longer draw begins with the shorter."""
    draws = np.stack([generator(seed).random(steps) for seed in seeds]) if seeds else np.zeros((0, steps))
    return torch.from_numpy(draws).to(device)
