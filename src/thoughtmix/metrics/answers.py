"""Counting answers: equivalence classes (NoveltyBench), coverage of known answers, pass@k."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thoughtmix.core.errors import InputError
from thoughtmix.metrics.text import is_unspaced, plain_text, words

Same = Callable[[int, int], bool]
"""Whether answers i and j, by index, say the same."""


def same_words(texts: Sequence[str], limit: int = 5) -> Callable[[int, int], bool | None]:
    """NoveltyBench's rule for short answers (Zhang et al. 2025): when both have at most `limit` words, the same if
    twice the number of words in both reaches the longer one's count; None (undecided) when one is longer.

    Words are what spaces part, in lower case, and each counts once among those in both: exactly as NoveltyBench has it.
    So "Paris" and "Paris." differ, and a Chinese sentence is one word.
    """
    split = [t.lower().split() for t in texts]

    def rule(i: int, j: int) -> bool | None:
        longest = max(len(split[i]), len(split[j]))
        if longest > limit:
            return None
        return 2 * len(set(split[i]) & set(split[j])) >= longest

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


def alike_in_words(texts: Sequence[str]) -> Same:
    """The same when enough words are: `same_words`' rule, twice the words in both reaching the longer one's count, for
    texts of any length, with each word counted once and punctuation left out.

    It needs no model, so it can report on what an embedder has chosen. Fails on paraphrase, which it takes for another
    answer: its counts are high.
    """
    each = [set(words(t)) for t in texts]

    def rule(i: int, j: int) -> bool:
        return 2 * len(each[i] & each[j]) >= max(len(each[i]), len(each[j]))

    return rule


def novelty_classes(
    texts: Sequence[str],
    distances: ArrayLike | None = None,
    threshold: float = 0.3,
    same: Callable[[str, str], bool] | None = None,
) -> list[int]:
    """The class of each answer: answers of one class say the same.

    Classes go by `same_words` where it decides, else by `same`, else by `near`. Without either, longer texts are the
    same only when their words are equal.

    Args:
        distances: (n, n) 1 - cosine.
        threshold: distance below which two longer texts are the same.
        same: decides on longer texts, such as a classifier like NoveltyBench's DeBERTa. For one that decides on all,
            call `equivalence_classes`.
    """
    if not texts:
        raise InputError("There are no texts to measure.", "Pass at least one thought.")
    return _classes(texts, same_words(texts), distances, threshold, same)


def _classes(
    texts: Sequence[str],
    short: Callable[[int, int], bool | None],
    distances: ArrayLike | None,
    threshold: float,
    same: Callable[[str, str], bool] | None = None,
) -> list[int]:
    plain = [" ".join(t.split()).casefold() for t in texts]
    if same is not None:
        ask = same  # for the type checker: a closure would see None again
        close: Same = lambda i, j: ask(texts[i], texts[j])  # noqa: E731
    elif distances is not None:
        close = near(distances, threshold)
    else:
        close = lambda i, j: plain[i] == plain[j]  # noqa: E731

    def alike(i: int, j: int) -> bool:
        decided = short(i, j)
        return close(i, j) if decided is None else decided

    return equivalence_classes(len(texts), alike)


def distinct_k(texts: Sequence[str], distances: ArrayLike | None = None, threshold: float = 0.3) -> int:
    """How many classes of equivalent answers there are (NoveltyBench, eq. 1). 1 to k, higher is more diverse.

    As `novelty_classes` with distances, but for two things: where a script has no spaces between words, a text of more
    than five words is not short, though it has no space; and two encodings of one text are the same.

    Fails on weak models: what makes no sense is equivalent to nothing, and counts as new. Gate on quality. Fails, too,
    on longer texts in languages that the embedder does not know: it may find all of them the same.
    """
    if not texts:
        raise InputError("There are no texts to measure.", "Pass at least one thought.")
    texts = [plain_text(t) for t in texts]
    rule = same_words(texts)
    long = [is_unspaced(t) and len(words(t)) > 5 for t in texts]
    classes = _classes(texts, lambda i, j: None if long[i] or long[j] else rule(i, j), distances, threshold)
    return max(classes) + 1


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

    NoveltyBench's own `distinct` is the highest class, counted from 0: one less.

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
    """Utilities from 1 to len(thresholds) + 1: one more for each threshold that a reward exceeds.

    So NoveltyBench grades the scores of its reward model from 1 to 10. The thresholds belong to one reward model.

    Raises:
        InputError: when the thresholds do not rise.
    """
    if list(thresholds) != sorted(thresholds):
        raise InputError("The reward thresholds do not rise.", "Sort them.")
    exceeded = np.searchsorted(np.asarray(thresholds, dtype=np.float64), np.asarray(rewards), side="left")
    return exceeded.astype(np.float64) + 1


def reward_quality(rewards: ArrayLike, grades: Sequence[float] = ()) -> NDArray[np.float64]:
    """Rewards as 0 to 1: `grade_rewards` over the highest grade, or without thresholds the sigmoid, which is the chance
    against an answer of reward 0 (Bradley & Terry 1952)."""
    if len(grades):
        return grade_rewards(rewards, grades) / (len(grades) + 1)
    return np.asarray(1 / (1 + np.exp(-np.clip(np.asarray(rewards, dtype=np.float64), -500, 500))))


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
