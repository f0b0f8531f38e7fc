"""Diversity of meaning, from unit embeddings (n, d) of the texts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thoughtmix.core.errors import InputError, NumericsError

Floats = NDArray[np.float64]


def _unit(embeddings: ArrayLike) -> Floats:
    e = np.asarray(embeddings, dtype=np.float64)
    if e.ndim != 2 or not len(e):
        raise InputError(f"Embeddings have shape {e.shape}.", "Pass (n, d), one row a text.")
    length = np.linalg.norm(e, axis=1, keepdims=True)
    if not np.isfinite(e).all() or (length == 0).any():
        raise NumericsError("An embedding is NaN, infinite or zero.", "Check the embedder.")
    unit: Floats = e / length
    return unit


def pairwise_distances(embeddings: ArrayLike) -> Floats:
    """(n, n) 1 - cosine, in 0 to 2, exactly symmetric, exactly 0 on the diagonal."""
    e = _unit(embeddings)
    d = np.clip(1 - e @ e.T, 0, 2)
    d = (d + d.T) / 2
    np.fill_diagonal(d, 0)
    return d


def mean_distance(embeddings: ArrayLike) -> float:
    """Mean of 1 - cosine over all pairs. 0 to n/(n-1), higher is more diverse; 0 for one text.

    Fails on drift: thoughts that leave the topic, each its own way, score best. Read it beside relevance.
    """
    d = pairwise_distances(embeddings)
    return float(d[np.triu_indices(len(d), 1)].mean()) if len(d) > 1 else 0.0


def vendi(embeddings: ArrayLike, q: float = 1.0) -> float:
    """The effective number of different texts: exp of the entropy of the eigenvalues of K / n, K the cosine kernel
    (Friedman & Dieng 2023, eq. 1; order q as in Pasarkar & Dieng 2024). 1 (all alike) to min(n, d), higher is
    more diverse.

    Fails with the kernel: MiniLM's cosines of unrelated English texts are above 0, so even those do not reach n;
    and it grows with n, so only sets of the same size compare. `q` < 1 counts rare texts more, > 1 less.
    """
    e = _unit(embeddings)
    if q < 0:
        raise InputError(f"Vendi of order {q}.", "Pass q=0 or more.")
    small = e @ e.T if len(e) <= e.shape[1] else e.T @ e  # the same non-zero eigenvalues
    values = np.linalg.eigvalsh(small / len(e))
    values = values[values > 1e-12]
    values = values / values.sum()
    if q == 1:
        return float(np.exp(-(values * np.log(values)).sum()))
    if np.isinf(q):
        return float(1 / values.max())
    return float((values**q).sum() ** (1 / (1 - q)))


def relevance(embeddings: ArrayLike, prompt: ArrayLike) -> Floats:
    """(n,) cosine of each text to the prompt (d,). -1 to 1, higher is nearer to the topic.

    Fails on answers that rightly share no word or idea with the question, and rewards repeating the question.
    """
    e, p = _unit(embeddings), _unit(np.atleast_2d(np.asarray(prompt, dtype=np.float64)))
    if p.shape != (1, e.shape[1]):
        raise InputError(f"The prompt's embedding has shape {p.shape}, the texts' {e.shape}.", "Use one embedder.")
    return np.asarray((e @ p[0]).clip(-1, 1))
