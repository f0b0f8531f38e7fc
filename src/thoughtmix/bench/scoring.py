"""From the thoughts of a trial to numbers. Needs no model: embeddings and likelihoods were measured with the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from thoughtmix.bench.tasks import Item, TaskKind, answer_parser
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, parse_json
from thoughtmix.core.types import ThoughtSet
from thoughtmix.metrics import distinct_k, pass_at_k

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
_PAIR = 'Write one object a line: {"a": "red", "b": "Red!", "same": true}.'


@dataclass(frozen=True, slots=True)
class Axes:
    """What a frontier of one kind of item shows, both to be maximised, and where its hypervolume begins."""

    quality: str
    diversity: str
    reference: tuple[float, float]
    quality_says: str
    diversity_says: str


AXES: dict[TaskKind, Axes] = {
    "open": Axes("judge_loglik", "vendi", (-4.0, 1.0), "log-likelihood under the judge, nats a token", "Vendi score"),
    "coverage": Axes("valid", "coverage", (0.0, 0.0), "share of valid answers", "distinct valid answers / n"),
    "reasoning": Axes("pass_1", "pass_n", (0.0, 0.0), "pass@1", "pass@n"),
}
# Further differences that the report tests, beyond the two axes.
SECONDARY: dict[TaskKind, tuple[str, ...]] = {
    "open": ("mean_distance", "distinct_k", "self_bleu", "relevance"),
    "coverage": ("valid",),
    "reasoning": ("pass_1",),
}


def score(record: Mapping[str, Any], item: Item, n: int, threshold: float = 0.3) -> dict[str, float]:
    """Every number of one trial: the metrics of its set, and rates of what went wrong.

    missing is the share of the n thoughts that are not there, and unread the share with no answer that could be read.
    Both count against validity and coverage, whose denominator is always n.

    Args:
        record: the trial's line on disk.
        threshold: of distinct_k's classes. For open prompts its value at others comes too, as `distinct_k@0.2`.

    Raises:
        InputError: when there are no thoughts, or more than n.
    """
    thoughts = ThoughtSet.from_dict(record["set"])
    count = len(thoughts)
    if not 1 <= count <= n:
        raise InputError(f"{record['key']} has {count} thoughts for n={n}.", "A thinker gives 1 to n.")
    out = dict(thoughts.metrics)
    out |= {
        "missing": 1 - count / n,
        "empty": sum(not t.text.strip() for t in thoughts) / n,
        "tokens": float(thoughts.run.get("tokens", 0)),
    }
    if "judge_nll" in out:
        out["judge_loglik"] = -out["judge_nll"]
    if item.kind == "open":
        counts = distinct_k_by_threshold(thoughts.texts, thoughts.distances, (*THRESHOLDS, threshold))
        out |= {f"distinct_k@{t:g}": float(count) for t, count in counts.items()}
        out["distinct_k"] = float(counts[threshold])
        return out
    answers = [answer_parser(item)(text) for text in thoughts.texts]
    right = [a.answer for a in answers if a.valid]
    out |= {"valid": len(right) / n, "unread": sum(a.answer is None for a in answers) / n}
    if item.kind == "coverage":
        out["coverage"] = len(set(right)) / n
    else:
        powers = [2**i for i in range(n.bit_length()) if 2**i <= n]
        out |= {f"pass_{k}": pass_at_k(n, len(right), k) for k in powers}
        out |= {"pass_n": pass_at_k(n, len(right), n), "distinct_right": len(set(right)) / n}
    return out


def distinct_k_by_threshold(
    texts: Sequence[str], distances: ArrayLike, thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, int]:
    """distinct_k at several thresholds: a result that holds at one alone is a result of the threshold."""
    return {t: distinct_k(texts, distances, t) for t in thresholds}


@dataclass(frozen=True, slots=True)
class Calibration:
    """The distance below which two texts count as the same, and how well that agrees with the labels."""

    threshold: float
    balanced_accuracy: float
    """Mean of the shares of same and of different pairs that are told right: 0.5 is chance."""
    pairs: int


def calibrate_threshold(distances: ArrayLike, same: Sequence[bool]) -> Calibration:
    """The threshold of largest balanced accuracy on labelled pairs.

    Of several equally good ones it is the middle of the widest gap.

    Args:
        distances: (pairs,) 1 - cosine.
        same: (pairs,) labels.

    Raises:
        InputError: when there are not both same and different pairs.
    """
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


def load_pairs(path: str | Path) -> tuple[list[tuple[str, str]], list[bool]]:
    """Labelled pairs from JSON Lines with `a`, `b` and `same`. Raises `InputError`."""
    try:
        rows = [parse_json(line) for line in bounded_text(path).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the labelled pairs: {error}.", _PAIR) from None
    for number, row in enumerate(rows, 1):
        good = isinstance(row, dict) and isinstance(row.get("a"), str) and isinstance(row.get("b"), str)
        if not good or not isinstance(row.get("same"), bool):
            raise InputError(f"{path}, pair {number} lacks the texts a and b, or same.", _PAIR)
    return [(row["a"], row["b"]) for row in rows], [row["same"] for row in rows]
