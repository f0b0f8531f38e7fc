"""How much of a source's variety reaches the text: the transmission score of a specification, a style, a branch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thoughtmix.metrics.catalogue import SOURCES

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought

_TEXTS = frozenset({"specification"})
_LEAST = 4  # thoughts of which something can be said


def transmission(source: ArrayLike, answers: ArrayLike) -> float | None:
    """How far the distances between answers follow those between their sources' values.

    The bias-corrected distance correlation (Székely & Rizzo 2013, definition 2): both matrices are U-centred, and their
    inner product is divided by their norms. At most 1, which is distances in proportion; around 0 where the source
    has no say, whatever the distances; a little below 0 by chance. Like r squared it is a share of variance. "How
    effectively variation in the source reaches the final output" is the question of Zhang, Xin & Zhong (2026, arXiv
    2606.10302), whose score this is not.

    Args:
        source: (n, n) distances between what the thoughts were given, 0 on the diagonal.
        answers: (n, n) distances between the thoughts.

    Returns:
        None for fewer than 4 thoughts, or where one of the two is all alike or all equally far apart: then nothing can
        be seen.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (source, answers))
    if len(a) < _LEAST:
        return None
    a, b = _centred(a), _centred(b)
    norms = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norms) if norms > 1e-12 else None


def _centred(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """U-centred: rows, columns and the whole have mean 0 off the diagonal, which is 0."""
    n = len(d)
    out = d - d.sum(0, keepdims=True) / (n - 2) - d.sum(1, keepdims=True) / (n - 2) + d.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(out, 0)
    return np.asarray(out)


def transmissions(
    thoughts: Sequence[Thought], answers: ArrayLike, distances: Callable[[Sequence[str]], ArrayLike]
) -> dict[str, float]:
    """The score of every source that has more than one value among the thoughts: name -> score.

    Values that are no texts differ or are the same; where all differ, nothing can be seen and there is no score.

    Args:
        thoughts: n of them, with their origins.
        answers: (n, n) distances between them.
        distances: Of texts, for sources that are texts.
    """
    out: dict[str, float] = {}
    for name in SOURCES:
        values = [t.origin.get(name) for t in thoughts]
        if any(value is None for value in values):
            continue
        told = [value if isinstance(value, str) else _same_as(value) for value in values]
        if len(set(told)) < 2:
            continue
        if name in _TEXTS:
            source = np.asarray(distances(told), dtype=np.float64)
        else:
            source = np.asarray([[float(x != y) for y in told] for x in told])
        score = transmission(source, answers)
        if score is not None:
            out[f"transmission_{name}"] = score
    return out


def _same_as(value: Any) -> str:
    """A value as a text that equal values share."""
    return json.dumps(value, sort_keys=True, default=str)
