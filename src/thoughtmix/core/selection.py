"""Choosing k different good items out of n: greedy MAP of a quality-weighted determinantal point process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def select_diverse(
    distances: Sequence[Sequence[float]], quality: Sequence[float], k: int, quality_weight: float = 1.0
) -> list[int]:
    """Indices of `k` items, in the order picked; ties go to the lower index.

    distances: (n, n), 0 on the diagonal. quality: (n,), higher is better, any scale.
    L = diag(q) S diag(q) with S = 1 - distances. Each step takes the item with the largest marginal
    log-determinant, kept up to date by one Cholesky row a step (Chen et al. 2018, algorithm 1):
    O(n k^2) in all. When the rest are exact copies of what was taken, the best-quality one is next.
    """
    d = np.asarray(distances, dtype=np.float64)  # (n, n)
    value = np.asarray(quality, dtype=np.float64)  # (n,)
    spread = value.std()
    z = (value - value.mean()) / spread if spread > 1e-12 else np.zeros_like(value)
    q = np.exp(0.5 * quality_weight * z)
    kernel = q[:, None] * (1.0 - (d + d.T) / 2) * q[None, :]
    n = len(q)
    rows = np.zeros((k, n))  # Cholesky rows of the items taken so far
    gain = kernel.diagonal().copy()  # marginal determinant of each item given those taken
    left = np.ones(n, dtype=bool)
    picked: list[int] = []
    for step in range(k):
        # Copies have gain ~0 (rounding may make it negative): order those by quality, below every real gain.
        rank = np.where(gain > 1e-9, np.log(np.maximum(gain, 1e-9)), -1e3 + z)
        best = int(np.argmax(np.where(left, rank, -np.inf)))
        picked.append(best)
        left[best] = False
        if gain[best] > 1e-9:
            row = (kernel[best] - rows[:step].T @ rows[:step, best]) / np.sqrt(gain[best])
            rows[step] = row
            gain = gain - row**2
    return picked
