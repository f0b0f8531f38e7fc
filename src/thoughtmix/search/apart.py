"""How far texts lie apart, for choosing different ones: by their words, or in an embedding."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from thoughtmix.models import Embedder

Apart = Callable[[Sequence[str]], NDArray[np.float64]]
"""(n,) texts -> (n, n) distances, 0 on the diagonal."""


def words_apart(texts: Sequence[str]) -> NDArray[np.float64]:
    """1 less the cosine of the sets of words and pairs of neighbouring words: 0 for the same, 1 for none in common.
    (Ochiai 1957; unlike Jaccard's index a kernel, as choosing by a determinantal point process needs.)"""
    columns: dict[tuple[str, ...], int] = {}
    rows = []
    for text in texts:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        found: set[tuple[str, ...]] = {*((w,) for w in words), *pairwise(words)} or {()}
        rows.append([columns.setdefault(item, len(columns)) for item in sorted(found)])
    table = np.zeros((len(texts), max(len(columns), 1)))
    for i, row in enumerate(rows):
        table[i, row] = len(row) ** -0.5
    return _distances(table)


def embedding_apart(embedder: Embedder) -> Apart:
    """1 less the cosine in an embedding: the same measure as the metrics', so that those say less about the result."""
    return lambda texts: _distances(np.asarray(embedder.encode([t or " " for t in texts]), dtype=np.float64))


def _distances(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.clip(1 - unit @ unit.T, 0, 2).round(12)  # the same text is at 0
    np.fill_diagonal(out, 0)
    return out
