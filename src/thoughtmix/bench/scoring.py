"""From the thoughts of a trial to numbers. Needs no model: embeddings and likelihoods were measured with the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from thoughtmix.bench.judging import word_classes
from thoughtmix.bench.tasks import Item, TaskKind, answer_parser
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import bounded_text, parse_json
from thoughtmix.core.types import ThoughtSet
from thoughtmix.metrics import distinct_k, novelty_classes, pass_at_k, utility_k
from thoughtmix.metrics.answers import grade_rewards, reward_quality
from thoughtmix.metrics.soundness import is_complete, is_sound, mean_repetition, parses

if TYPE_CHECKING:
    from thoughtmix.bench.config import Models

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


_SOUND = "share of sound answers: complete, no loop, of the form asked for"
AXES: dict[TaskKind, Axes] = {
    "open": Axes("sound", "vendi", (0.0, 1.0), _SOUND, "Vendi score"),
    "coverage": Axes("valid", "coverage", (0.0, 0.0), "share of valid answers", "distinct valid answers / n"),
    "reasoning": Axes("pass_1", "pass_n", (0.0, 0.0), "pass@1", "pass@n"),
}
_QUALITY: dict[str, tuple[str, float, str]] = {
    "reward": ("reward_quality", 0.0, "reward, as 0 to 1"),
    "likelihood": ("judge_loglik", -4.0, "log-likelihood under the judge, nats a token"),
    "rubric": ("judge_yes", 0.0, "P(yes) of the judge to a rubric, both orders of the words"),
    "pairs": ("judge_wins", 0.0, "wins against the model's likeliest answer, both orders; ties half"),
}
"""By who says what is good: the score, where its hypervolume begins, what it is."""


def open_axes(models: Models, equivalence: str, chose: bool) -> Axes:
    """The axes of open prompts.

    Args:
        models: the reward model, else the judge, says what quality is; without either, soundness.
        equivalence: what tells which answers are the same.
        chose: whether some system may have chosen its answers by the embedder that the Vendi score comes from.
    """
    plain = AXES["open"]
    name, begins, says = plain.quality, plain.reference[0], plain.quality_says
    by = "reward" if models.reward is not None else models.judged_by
    if by is not None:
        name, begins, says = _QUALITY[by]
    if chose and equivalence != "embedder":
        return Axes(name, "distinct_k", (begins, 0.0), says, f"different answers (told by {equivalence})")
    return Axes(name, plain.diversity, (begins, 1.0), says, plain.diversity_says)


def secondary(kind: TaskKind, models: Models, items: Sequence[Item]) -> tuple[str, ...]:
    """Further differences that the report tests, beyond the two axes."""
    if kind != "open":
        return ("valid",) if kind == "coverage" else ("pass_1",)
    formed = all("format" in item.data for item in items if item.kind == kind)
    more = (("utility_k",) if models.reward is not None else (), ("parseable",) if formed else ())
    return ("distinct_k", "self_bleu", "complete", "relevance", "repetition", *more[0], *more[1])


def score(
    record: Mapping[str, Any], item: Item, n: int, threshold: float = 0.3, equivalence: str = "embedder"
) -> dict[str, float]:
    """Every number of one trial: the metrics of its set, and rates of what went wrong.

    missing is the share of the n thoughts that are not there, and unread the share with no answer that could be read.
    Both count against validity and coverage, whose denominator is always n.

    Args:
        record: the trial's line on disk.
        threshold: of distinct_k's classes. For open prompts its value at others comes too, as `distinct_k@0.2`.
        equivalence: what tells which answers to an open prompt are the same: the run's embedder, words, or (any other
            name) a model, whose classes are in the record.

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
        return {**out, **_open_scores(record, thoughts, item, n, threshold, equivalence)}
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


def _open_scores(
    record: Mapping[str, Any], thoughts: ThoughtSet, item: Item, n: int, threshold: float, equivalence: str
) -> dict[str, float]:
    texts, form = thoughts.texts, item.data.get("format")
    counts = distinct_k_by_threshold(texts, thoughts.distances, (*THRESHOLDS, threshold))
    out = {f"distinct_k@{t:g}": float(count) for t, count in counts.items()}
    by_words = word_classes(texts)
    if equivalence == "embedder":
        classes = novelty_classes(texts, thoughts.distances, threshold)
        out["distinct_k"] = float(counts[threshold])
    else:
        classes = by_words if equivalence == "words" else list(record["classes"])
        out["distinct_k"] = float(max(classes) + 1)
    out |= {
        "distinct_words": float(max(by_words) + 1),
        "complete": sum(is_complete(t.text, t.finish) for t in thoughts) / n,
        "repetition": mean_repetition(texts),
        "sound": sum(is_sound(t.text, t.finish, form) for t in thoughts) / n,
    }
    if form is not None:
        out["parseable"] = sum(parses(text, form) for text in texts) / n
    if "rewards" in record:
        grades = record.get("grades", [])
        good = grade_rewards(record["rewards"], grades) if grades else reward_quality(record["rewards"])
        out["utility_k"] = utility_k(classes, good.tolist())
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
