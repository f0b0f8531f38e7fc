"""Which branches go on. Everything here is numpy and deterministic, or draws from a number that is given to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thoughtmix.core.selection import select_diverse

SELECTIONS = ("none", "best", "diverse", "smc")
Floats = NDArray[np.float64]


def best(scores: ArrayLike, k: int) -> list[int]:
    """The k of the highest scores, best first; of equal ones the first."""
    return [int(i) for i in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:k]]


def diverse(distances: ArrayLike, scores: ArrayLike, k: int, weight: float = 1.0) -> list[int]:
    """k that are good and unlike each other: greedy MAP of a determinantal point process (`core.selection`)."""
    d = np.asarray(distances, dtype=np.float64)
    return select_diverse(d.tolist(), np.asarray(scores, dtype=np.float64).tolist(), k, weight)


def overlap(rows: Sequence[Sequence[int]], size: int = 3) -> Floats:
    """(n, n) distances of token sequences, 1 - cosine of their counts of `size`-grams: 0 equal, 1 nothing shared;
    a shifted copy is near. 1 - distance is a positive semi-definite kernel."""
    counts = [Counter(zip(*(row[i:] for i in range(size)), strict=False)) or Counter({(): 1}) for row in rows]
    index = {gram: i for i, gram in enumerate({g for c in counts for g in c})}
    table = np.zeros((len(rows), len(index)))
    for row, count in zip(table, counts, strict=True):
        row[[index[g] for g in count]] = list(count.values())
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    d: Floats = np.clip(1 - table @ table.T, 0, 1)
    np.fill_diagonal(d, 0)
    return d


def copies(chosen: Sequence[int], n: int) -> list[int]:
    """Parents of n rows from the chosen ones of n: a chosen row stays in its place, every other place is taken by a
    copy, the earlier chosen (the better) first."""
    kept = set(chosen)
    parents = list(range(n))
    for turn, place in enumerate(i for i in range(n) if i not in kept):
        parents[place] = chosen[turn % len(chosen)]
    return parents


def normalised(log_weights: ArrayLike) -> Floats:
    """Weights that sum to 1."""
    x = np.asarray(log_weights, dtype=np.float64)
    w = np.exp(x - x.max())
    out: Floats = w / w.sum()
    return out


def effective(weights: ArrayLike) -> float:
    """Effective sample size of normalised weights, 1 to n."""
    return float(1 / np.square(np.asarray(weights, dtype=np.float64)).sum())


def systematic(weights: ArrayLike, uniform: float) -> list[int]:
    """Parents of n rows, each row of weight w taken floor(n w) or ceil(n w) times, n w on average (Carpenter et al.
    1999), from one uniform number in (0, 1). A row that is taken stays in its place."""
    w = np.asarray(weights, dtype=np.float64)
    n = len(w)
    edges = np.cumsum(w)
    taken = np.minimum(np.searchsorted(edges / edges[-1], (np.arange(n) + uniform) / n, side="right"), n - 1)
    counts = np.bincount(taken, minlength=n)
    parents = list(range(n))
    extra = [i for i in range(n) for _ in range(counts[i] - 1)]
    for place, parent in zip((i for i in range(n) if not counts[i]), extra, strict=True):
        parents[place] = parent
    return parents
