"""How far uses of experts go with labels, and how far they would by chance: statistics of whole texts, and their
permutation tests. Shapes as in analysis.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from thoughtmix.engine.rng import generator

Array = NDArray[np.float64]
_CHUNK = 64  # permutations in one matrix product


def one_hot(labels: NDArray[np.int64], classes: int) -> Array:
    """(N,) -> (N, C)."""
    return np.eye(classes)[labels]


def mutual_information(usage: Array, onehot: Array) -> Array:
    """(L,) nats: I(label; expert) of a text and one of its uses of a layer drawn at random.

    usage (N, L, E): share of each expert in a text's uses of the layer, sum 1. onehot (..., N, C) -> (..., L).
    """
    n, layers, e = usage.shape
    joint = np.einsum("...nc,nx->...cx", onehot, usage.reshape(n, layers * e)) / n
    joint = joint.reshape(*onehot.shape[:-2], onehot.shape[-1], layers, e)
    expert = joint.sum(-3, keepdims=True)
    label = joint.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(joint > 0, joint * np.log(joint / (expert * label)), 0.0)
    total: Array = terms.sum((-3, -1))
    return np.maximum(total, 0.0)


def risk_difference(rates: Array, onehot: Array) -> Array:
    """(C, L, E): how much more often an expert runs for a token of this label than for one of the others, as in
    SteerMoE (Fayyaz et al. 2025).

    rates (N, L, E): share of a text's tokens for which it ran. onehot (..., N, C) -> (..., C, L, E).
    """
    n = len(rates)
    mine = onehot.sum(-2)[..., :, None]  # texts of each label
    flat = rates.reshape(n, -1)
    sums = np.einsum("...nc,nx->...cx", onehot, flat)
    out: Array = sums / mine - (flat.sum(0) - sums) / (n - mine)
    return out.reshape(*onehot.shape[:-2], onehot.shape[-1], *rates.shape[1:])


def risk_difference_std(rates: Array, onehot: Array) -> Array:
    """(C, L, E) standard deviation of a risk difference when labels mean nothing; infinite for an expert that always
    runs equally often, so that it never stands out."""
    mine = onehot.sum(-2)[:, None]
    std = rates.reshape(len(rates), -1).std(0, ddof=1) * np.sqrt(1 / mine + 1 / (len(rates) - mine))
    return np.where(std > 1e-12, std, np.inf).reshape(onehot.shape[-1], *rates.shape[1:])


def nearest_mean_accuracy(usage: Array) -> Callable[[Array], float]:
    """A function of labels (N, C): the share of texts whose label is that of the nearest mean usage, the text itself
    left out of the means. Features are scaled to unit variance. Chance is about 1 / C."""
    x = usage.reshape(len(usage), -1)
    deviation = x.std(0)
    x = (x - x.mean(0)) / np.where(deviation > 1e-12, deviation, 1.0)
    gram = x @ x.T  # distances to means need no more, whatever the labels

    def accuracy(onehot: Array) -> float:
        own = np.diag(gram)[:, None] * onehot  # (N, C)
        cross = gram @ onehot
        inside = np.einsum("nc,nc->c", onehot, cross)  # sum over pairs of a label
        count = onehot.sum(0) - onehot  # texts of the label without this one
        others = np.maximum(count, 1)
        distance = -2 * (cross - own) / others + (inside - 2 * cross * onehot + own) / others**2
        distance = np.where(count > 0, distance, np.inf)
        return float((distance.argmin(1) == onehot.argmax(1)).mean())

    return accuracy


def permuted(onehot: Array, statistic: Callable[[Array], Array], permutations: int, seed: int) -> Array:
    """(permutations, ...): the statistic of shuffled labels. statistic takes (p, N, C)."""
    rng = generator(seed)
    out = []
    for start in range(0, permutations, _CHUNK):
        orders = [rng.permutation(len(onehot)) for _ in range(min(_CHUNK, permutations - start))]
        out.append(statistic(np.stack([onehot[order] for order in orders])))
    return np.concatenate(out)


def p_value(observed: float, shuffled: Array) -> float:
    """One-sided, never 0: (1 + number at least as large) / (1 + number of permutations) (Phipson & Smyth 2010)."""
    return float((1 + (shuffled >= observed - 1e-12).sum()) / (1 + len(shuffled)))
