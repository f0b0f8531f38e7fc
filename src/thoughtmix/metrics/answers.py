"""Counting answers: equivalence classes (NoveltyBench), coverage of known answers, pass@k."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thoughtmix.core.errors import InputError

Same = Callable[[int, int], bool]
"""Whether answers i and j, by index, say the same."""


def same_words(texts: Sequence[str], limit: int = 5) -> Callable[[int, int], bool | None]:
    """NoveltyBench's rule for short answers (Zhang et al. 2025): when both have at most `limit` words, the same if
    twice their common words reach the longer one's count; None (undecided) when one is longer."""
    split = [re.findall(r"\w+", t.lower()) for t in texts]

    def rule(i: int, j: int) -> bool | None:
        longest = max(len(split[i]), len(split[j]))
        if longest > limit:
            return None
        if longest == 0:
            return True
        return 2 * sum((Counter(split[i]) & Counter(split[j])).values()) >= longest

    return rule


def near(distances: ArrayLike, threshold: float = 0.3) -> Same:
    """The same when nearer than `threshold` (1 - cosine). NoveltyBench asks a DeBERTa classifier instead; a threshold
    is cruder, so report how results move with it."""
    d = np.asarray(distances)
    return lambda i, j: bool(d[i, j] < threshold)


def equivalence_classes(count: int, same: Same) -> list[int]:
    """The class of each of `count` answers: greedily, each is compared with the first member of every class so far."""
    firsts: list[int] = []
    classes = []
    for i in range(count):
        found = next((c for c, first in enumerate(firsts) if same(first, i)), None)
        if found is None:
            found = len(firsts)
            firsts.append(i)
        classes.append(found)
    return classes


def novelty_classes(
    texts: Sequence[str],
    distances: ArrayLike | None = None,
    threshold: float = 0.3,
    same: Callable[[str, str], bool] | None = None,
) -> list[int]:
    """The class of each answer: answers of one class say the same.

    Classes go by `same_words` where it decides, else by `near`. Without distances, longer texts are the same only when
    their words are equal.

    Args:
        distances: (n, n) 1 - cosine.
        threshold: distance below which two longer texts are the same.
        same: decides alone where it is given, such as a classifier like NoveltyBench's DeBERTa, or a person.
    """
    if not texts:
        raise InputError("There are no texts to measure.", "Pass at least one thought.")
    if same is not None:
        return equivalence_classes(len(texts), lambda i, j: same(texts[i], texts[j]))
    short = same_words(texts)
    plain = [" ".join(t.split()).casefold() for t in texts]
    close = (lambda i, j: plain[i] == plain[j]) if distances is None else near(distances, threshold)

    def alike(i: int, j: int) -> bool:
        decided = short(i, j)
        return close(i, j) if decided is None else decided

    return equivalence_classes(len(texts), alike)


def distinct_k(texts: Sequence[str], distances: ArrayLike | None = None, threshold: float = 0.3) -> int:
    """How many classes of equivalent answers there are (NoveltyBench, eq. 1). 1 to k, higher is more diverse.

    Fails on weak models: what makes no sense is equivalent to nothing, and counts as new. Gate on quality.
    """
    return max(novelty_classes(texts, distances, threshold)) + 1


def utility_k(classes: Sequence[int], utilities: Sequence[float], patience: float = 0.8) -> float:
    """(1-p)/(1-p^k) sum_i p^(i-1) [answer i opens a new class] u_i (NoveltyBench, eq. 2): what a reader gets who
    goes on to the next answer with probability p. Between the smallest and largest utility, or 0; higher is better.

    Fails as the utilities fail; and order matters, so never sort by the utility first.
    """
    if len(classes) != len(utilities) or not classes:
        raise InputError(f"{len(classes)} classes and {len(utilities)} utilities.", "Pass one of each an answer.")
    if not 0 < patience < 1:
        raise InputError(f"A patience of {patience}.", "Pass a share between 0 and 1 (0.8).")
    seen: set[int] = set()
    total = 0.0
    for i, (c, u) in enumerate(zip(classes, utilities, strict=True)):
        if c not in seen:
            total += patience**i * u
            seen.add(c)
    return float(total * (1 - patience) / (1 - patience ** len(classes)))


def novelty_bench(
    prompt: str,
    texts: Sequence[str],
    reward: Callable[[str, Sequence[str]], ArrayLike],
    *,
    thresholds: Sequence[float] = (),
    same: Callable[[str, str], bool] | None = None,
    distances: ArrayLike | None = None,
    patience: float = 0.8,
) -> dict[str, float]:
    """utility_k and distinct_k of the answers to one prompt, in their order (NoveltyBench).

    Args:
        reward: (prompt, n answers) -> (n,) rewards, higher is better.
        thresholds: see `grade_rewards`. Without them a reward is the utility.
        same: see `novelty_classes`, as are the distances.

    Raises:
        InputError: when the rewards are not one finite number for each answer.
    """
    rewards = np.asarray(reward(prompt, texts), dtype=np.float64)
    if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
        raise InputError(f"The reward gave {rewards.shape} for {len(texts)} answers.", "Give one finite number each.")
    classes = novelty_classes(texts, distances, same=same)
    utilities = grade_rewards(rewards, thresholds) if len(thresholds) else rewards
    return {"utility_k": utility_k(classes, utilities.tolist(), patience), "distinct_k": float(max(classes) + 1)}


def grade_rewards(rewards: ArrayLike, thresholds: Sequence[float]) -> NDArray[np.float64]:
    """Utilities from 1 to len(thresholds) + 1: one more for each threshold that a reward reaches.

    So NoveltyBench grades the scores of its reward model from 1 to 10. The thresholds belong to one reward model.

    Raises:
        InputError: when the thresholds do not rise.
    """
    if list(thresholds) != sorted(thresholds):
        raise InputError("The reward thresholds do not rise.", "Sort them.")
    reached = np.searchsorted(np.asarray(thresholds, dtype=np.float64), np.asarray(rewards), side="right")
    return reached.astype(np.float64) + 1


def coverage(answers: Sequence[str | None], known: Collection[str]) -> tuple[float, float]:
    """(distinct valid answers / n, valid answers / n) against a known answer set; None is an answer that could not
    be read. Both 0 to 1, higher is better. The most honest of these: no judge, no kernel. Fails when the set is
    incomplete, or when valid ways to write an answer are not recognised."""
    if not answers:
        raise InputError("There are no answers to count.", "Pass at least one.")
    allowed = {k.casefold() for k in known}
    valid = [a.casefold() for a in answers if a is not None and a.casefold() in allowed]
    return len(set(valid)) / len(answers), len(valid) / len(answers)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """1 - C(n-c, k)/C(n, k), the unbiased chance that one of k of n samples is correct (Chen et al. 2021, eq. 1),
    as a product that neither overflows nor cancels. 0 to 1. Fails without a sound verifier."""
    if not (0 <= correct <= n and 1 <= k <= n):
        raise InputError(f"pass@{k} of {correct} correct in {n}.", "Pass 0 <= correct <= n and 1 <= k <= n.")
    if n - correct < k:
        return 1.0
    return float(1 - np.prod(1 - k / np.arange(n - correct + 1, n + 1)))
