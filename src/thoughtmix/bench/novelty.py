"""NoveltyBench's measures (Zhang et al. 2025), with the two parts that it leaves to models made exchangeable: which
answers are the same, and how useful an answer is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thoughtmix.core.errors import InputError
from thoughtmix.metrics import distinct_k, equivalence_classes, novelty_classes, utility_k

Equivalence = Callable[[str, str], bool]
"""Whether two answers say the same: a classifier like NoveltyBench's DeBERTa, a person, ..."""
Reward = Callable[[str, Sequence[str]], ArrayLike]
"""(prompt, n answers) -> (n,) rewards, higher is better."""

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
_PAIR = 'Write one object a line: {"a": "red", "b": "Red!", "same": true}.'


@dataclass(frozen=True, slots=True)
class Calibration:
    """The distance below which two texts count as the same, and how well that agrees with the labels."""

    threshold: float
    balanced_accuracy: float
    """Mean of the shares of same and of different pairs that are told right: 0.5 is chance."""
    pairs: int


def calibrate(distances: ArrayLike, same: Sequence[bool]) -> Calibration:
    """The threshold of largest balanced accuracy on labelled pairs; of several equally good, the middle of the widest
    gap. distances: (pairs,) 1 - cosine. Raises `InputError` when there are not both same and different pairs."""
    d, is_same = np.asarray(distances, dtype=np.float64), np.asarray(same, dtype=bool)
    if d.ndim != 1 or d.shape != is_same.shape or not np.isfinite(d).all():
        raise InputError(f"{d.shape} distances and {is_same.shape} labels.", "Pass one finite one of each a pair.")
    if is_same.all() or not is_same.any():
        raise InputError("The labelled pairs are all the same, or all different.", "Label some of both.")
    edges = np.concatenate([[0.0], np.unique(d), [2.0]])
    middles = (edges[1:] + edges[:-1]) / 2
    told = d[None, :] < middles[:, None]  # (thresholds, pairs)
    accuracy = (told[:, is_same].mean(1) + (~told[:, ~is_same]).mean(1)) / 2
    best = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
    widest = best[int(np.argmax((edges[1:] - edges[:-1])[best]))]
    return Calibration(float(middles[widest]), float(accuracy[widest]), len(d))


def read_pairs(path: str | Path) -> tuple[list[tuple[str, str]], list[bool]]:
    """Labelled pairs from JSON Lines with `a`, `b` and `same`. Raises `InputError`."""
    try:
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the labelled pairs: {error}.", _PAIR) from None
    for number, row in enumerate(rows, 1):
        good = isinstance(row, dict) and isinstance(row.get("a"), str) and isinstance(row.get("b"), str)
        if not good or not isinstance(row.get("same"), bool):
            raise InputError(f"{path}, pair {number} lacks the texts a and b, or same.", _PAIR)
    return [(row["a"], row["b"]) for row in rows], [row["same"] for row in rows]


def sensitivity(
    texts: Sequence[str], distances: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, int]:
    """distinct_k at several thresholds: a result that holds at one alone is a result of the threshold."""
    return {t: distinct_k(texts, distances, t) for t in thresholds}


def classes(texts: Sequence[str], same: Equivalence | None = None, distances: ArrayLike | None = None,
            threshold: float = 0.3) -> list[int]:  # fmt: skip
    """The class of each answer: by `same` where it is given, else by shared words for short answers and by distance."""
    if same is None:
        return novelty_classes(texts, distances, threshold)
    if not texts:
        raise InputError("There are no texts to measure.", "Pass at least one thought.")
    return equivalence_classes(len(texts), lambda i, j: same(texts[i], texts[j]))


def graded(rewards: ArrayLike, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Utilities 1 to len(thresholds) + 1: one more for each threshold that a reward reaches, as NoveltyBench grades its
    reward model's scores from 1 to 10. thresholds: rising; they belong to one reward model."""
    if list(thresholds) != sorted(thresholds):
        raise InputError("The reward thresholds do not rise.", "Sort them.")
    reached = np.searchsorted(np.asarray(thresholds, dtype=np.float64), np.asarray(rewards), side="right")
    return reached.astype(np.float64) + 1


def utility(
    prompt: str,
    texts: Sequence[str],
    reward: Reward,
    *,
    thresholds: Sequence[float] = (),
    same: Equivalence | None = None,
    distances: ArrayLike | None = None,
    patience: float = 0.8,
) -> Mapping[str, float]:
    """utility_k and distinct_k of one prompt's answers, in their order. Without thresholds a reward is the utility."""
    rewards = np.asarray(reward(prompt, texts), dtype=np.float64)
    if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
        raise InputError(f"The reward gave {rewards.shape} for {len(texts)} answers.", "Give one finite number each.")
    kinds = classes(texts, same, distances)
    used = graded(rewards, thresholds) if len(thresholds) else rewards
    return {"utility_k": utility_k(kinds, used.tolist(), patience), "distinct_k": float(max(kinds) + 1)}
