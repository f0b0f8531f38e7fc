"""Choosing k of n thoughts: the most different of those that are good enough, and how different any items are.

`select` is what `--select` does. `select_diverse` under it weighs quality against difference; search and the
choice of noise directions use it directly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Literal

from thoughtmix.core.errors import InputError
from thoughtmix.core.stock import is_stock_phrase

Reason = Literal["blank", "copy", "loop", "stock", "quality", "near"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A text that was not picked. why: it is blank, a copy of a better one (`of`), a loop, below the floor of quality,
    or good, but nearer to what was picked (nearest of all to `of`) than those that were taken."""

    index: int
    why: Reason
    of: int | None = None


QUALITY_FLOOR = 0.5
"""The quantile of quality that a selected thought must reach: the better half is good enough."""
LOOPS = 0.4
"""Share of repeated word pairs (or runs of four characters) from which on a text repeats itself."""
_TWICE = frozenset(
    {"ha", "ho", "no", "yes", "very", "really", "so", "many", "much", "far", "long", "bye", "had", "that"}
)
_SHORT = 12  # words or characters of which nothing can be said


@dataclass(frozen=True, slots=True)
class Selection:
    """What was picked, the best first, and why the others were not, in the order of their indices."""

    picked: list[int]
    left_out: list[LeftOut]


def select_good(
    texts: Sequence[str],
    distances: Sequence[Sequence[float]],
    quality: Sequence[float],
    k: int,
    quality_floor: float = QUALITY_FLOOR,
) -> list[int]:
    """The indices that `select` picks."""
    return select(texts, distances, quality, k, quality_floor).picked


def select(
    texts: Sequence[str],
    distances: Sequence[Sequence[float]],
    quality: Sequence[float],
    k: int,
    quality_floor: float = QUALITY_FLOOR,
) -> Selection:
    """The k most different of the acceptable texts.

    A text is acceptable when it is not blank, is no loop (`repetition`), no stock phrase (unless all are),
    no copy of a better one, and its quality reaches the `quality_floor` quantile of those of which all that is true: at
    0 difference alone decides, at 1 quality alone. Among the acceptable, quality counts no more: after the best one,
    each step adds the text that makes the set most different (greedy MAP of a determinantal point process,
    `select_diverse`). Where fewer than k are acceptable, the best of the others follow, loops and blank ones last.

    Args:
        texts: n of them.
        distances: (n, n), 0 on the diagonal.
        quality: (n,), higher is better, any scale.
        k: 1 to n.
        quality_floor: 0 to 1.
    """
    import numpy as np  # not at the top: importing the package loads nothing heavy

    value = np.asarray(quality, dtype=np.float64)
    best_first = sorted(range(len(texts)), key=lambda i: -value[i])
    faults = _faults(texts, best_first)
    sound = [i for i in best_first if i not in faults]
    floor = np.quantile(value[sound], quality_floor) if sound else 0.0
    good = [i for i in sound if value[i] >= floor]
    if len(good) > k:
        d = np.asarray(distances, dtype=np.float64)[np.ix_(good, good)]
        good = [good[i] for i in select_diverse(d.tolist(), [0.0] * len(good), k)]  # ties: the first, which is the best
    rest = sorted((i for i in best_first if i not in good), key=lambda i: (i not in sound, not texts[i].strip()))
    picked = [*good, *rest][:k]
    left_out = []
    for i in sorted(set(range(len(texts))) - set(picked)):
        nearest = min(picked, key=lambda j: distances[i][j])
        left_out.append(faults.get(i) or LeftOut(i, "quality" if value[i] < floor else "near", nearest))
    return Selection(picked, left_out)


def _faults(texts: Sequence[str], best_first: Sequence[int]) -> dict[int, LeftOut]:
    """The texts that are not acceptable whatever their quality, by index. best_first: all indices."""
    seen: dict[str, int] = {}
    faults: dict[int, LeftOut] = {}
    for i in best_first:
        plain = " ".join(texts[i].split()).casefold()
        if not plain:
            faults[i] = LeftOut(i, "blank")
        elif plain in seen:
            faults[i] = LeftOut(i, "copy", seen[plain])
        elif repetition(texts[i]) >= LOOPS:
            faults[i] = LeftOut(i, "loop")
        elif is_stock_phrase(texts[i]):
            faults[i] = LeftOut(i, "stock")
        seen.setdefault(plain, i)
    if len(faults) == len(texts):  # a stock phrase is better than nothing
        faults = {i: fault for i, fault in faults.items() if fault.why != "stock"}
    return faults


def check_floor(quality_floor: float) -> None:
    """Raises `InputError` for a quality floor that is no share."""
    if not 0 <= quality_floor <= 1:
        raise InputError(
            f"quality_floor is {quality_floor}.",
            "Pass 0 (difference alone) to 1 (quality alone), say 0.5 (--quality-floor 0.5).",
        )


def selection_facts(
    texts: Sequence[str], distances: Sequence[Sequence[float]], quality: Sequence[float], picked: Sequence[int]
) -> dict[str, float]:
    """What a selection gained over as many thoughts at random, whose expected means are those of the whole set.

    Returns:
        distance and random_distance: mean over pairs, by the distances that selected; wording and random_wording: the
        same by the words in common, which selected nothing; kept_quality and mean_quality: of the picked and of all.
    """
    words = wording_distances(texts)
    everyone = range(len(texts))
    return {
        "distance": _mean_pair(distances, picked),
        "random_distance": _mean_pair(distances, everyone),
        "wording": _mean_pair(words, picked),
        "random_wording": _mean_pair(words, everyone),
        "kept_quality": round(fmean(quality[i] for i in picked), 6),
        "mean_quality": round(fmean(quality), 6),
    }


def _mean_pair(distances: Sequence[Sequence[float]], among: Sequence[int]) -> float:
    pairs = [distances[i][j] for i in among for j in among if i < j]
    return round(fmean(pairs), 6) if pairs else 0.0


def repetition(text: str) -> float:
    """Share of a text's word pairs that stood in it before, 0 to 1; of runs of four characters where it has few words.

    Prose of 50 words has 0 to 0.1, a loop nearly 1. 0 for texts too short to tell.
    """
    split = text.casefold().split()
    units, width = (split, 2) if len(split) >= _SHORT else (list("".join(split)), 4)
    if len(units) < _SHORT:
        return 0.0
    runs = list(zip(*(units[i:] for i in range(width)), strict=False))
    return 1 - len(set(runs)) / len(runs)


def stutters(text: str) -> int:
    """How often a word stands right behind itself, the possessive aside: "the the", "night's night". What is said twice
    for effect ("ha ha", "very very") is none, nor is a number."""
    plain = [
        re.sub(r"['’]s$", "", w) for w in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[.,;:!?\n—–-]", text.casefold())
    ]
    return sum(a == b and a.isalpha() and a not in _TWICE for a, b in pairwise(plain))


def repeats(text: str) -> bool:
    """Whether a text is a loop, or stutters."""
    return repetition(text) >= LOOPS or stutters(text) > 0


def wording_distances(texts: Sequence[str]) -> list[list[float]]:
    """(n, n) 1 - cosine of counts of what spaces part: reports on a choice that an embedder made."""
    counts = [Counter(t.casefold().split()) for t in texts]
    length = [max(sum(c * c for c in count.values()) ** 0.5, 1e-12) for count in counts]
    return [
        [
            0.0 if i == j else 1 - sum(c * b[w] for w, c in a.items()) / (length[i] * length[j])
            for j, b in enumerate(counts)
        ]
        for i, a in enumerate(counts)
    ]


def each_origin_first(order: Sequence[int], origins: Sequence[Hashable], taken: Iterable[Hashable] = ()) -> list[int]:
    """The first of each origin in this order, then the others: what grew from one beginning competes with itself, so
    that as many origins as there is room for come through.

    Args:
        order: Indices, the best first.
        origins: Of each index.
        taken: Origins that are there already.
    """
    known, first, rest = set(taken), list[int](), list[int]()
    for i in order:
        (rest if origins[i] in known else first).append(i)
        known.add(origins[i])
    return [*first, *rest]


def select_diverse(
    distances: Sequence[Sequence[float]], quality: Sequence[float], k: int, quality_weight: float = 1.0
) -> list[int]:
    """Indices of `k` items, in the order picked; ties go to the lower index.

    distances: (n, n), 0 on the diagonal. quality: (n,), higher is better, any scale.
    L = diag(q) S diag(q) with S = 1 - distances. Each step takes the item with the largest marginal
    log-determinant, kept up to date by one Cholesky row a step (Chen et al. 2018, algorithm 1):
    O(n k^2) in all. When the rest are exact copies of what was taken, the best-quality one is next.
    """
    import numpy as np

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
