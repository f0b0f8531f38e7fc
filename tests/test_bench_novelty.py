"""NoveltyBench's measures with exchangeable parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoughtmix import InputError
from thoughtmix.bench import scoring
from thoughtmix.metrics import novelty_classes, pairwise_distances
from thoughtmix.metrics.answers import grade_rewards, novelty_bench


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=20).filter(
        lambda p: len({label for _, label in p}) == 2
    )
)
def test_no_threshold_agrees_better_with_the_labels(pairs: Any) -> None:
    d, same = np.array([v / 8 for v, _ in pairs]), np.array([label for _, label in pairs])
    got = scoring.calibrate_threshold(d, same.tolist())

    def accuracy(threshold: float) -> float:
        return float(((d[same] < threshold).mean() + (d[~same] >= threshold).mean()) / 2)

    assert got.balanced_accuracy == pytest.approx(accuracy(got.threshold))
    assert got.balanced_accuracy >= max(accuracy(t) for t in np.linspace(0, 2, 81)) - 1e-12
    assert got.balanced_accuracy >= 0.5


def test_separable_pairs_give_the_middle_of_the_gap() -> None:
    got = scoring.calibrate_threshold([0.05, 0.1, 0.5, 0.9], [True, True, False, False])
    assert (got.threshold, got.balanced_accuracy, got.pairs) == (pytest.approx(0.3), 1.0, 4)


def test_distinct_falls_as_the_threshold_rises() -> None:
    rng = np.random.default_rng(0)
    texts = [f"a long answer with number {i} in the middle of it" for i in range(12)]
    counts = scoring.distinct_k_by_threshold(texts, pairwise_distances(rng.normal(size=(12, 3)) + 1.0))
    values = list(counts.values())
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_utility_is_that_of_the_paper() -> None:
    """Three answers, the second like the first: (1 - p) / (1 - p^3) (u1 + p^2 u3)."""
    rewards = {"red": 3.0, "Red": 9.0, "blue": 5.0}
    got = novelty_bench(
        "?", list(rewards), lambda prompt, texts: [rewards[t] for t in texts], same=lambda a, b: a.lower() == b.lower()
    )
    assert got["distinct_k"] == 2
    assert got["utility_k"] == pytest.approx(0.2 / (1 - 0.8**3) * (3 + 0.64 * 5))
    assert novelty_classes(["red", "Red", "Red!", "blue"]) == [0, 0, 1, 2], "short answers: by what spaces part"


def test_a_classifier_is_asked_about_longer_answers_only() -> None:
    asked = []

    def same(a: str, b: str) -> bool:
        asked.append((a, b))
        return True

    long = "this one has six words altogether"
    assert novelty_classes(["red", "blue", long, long.upper()], same=same) == [0, 1, 0, 0]
    assert asked == [("red", long), ("red", long.upper())]


def test_grades_of_rewards_are_noveltybenchs() -> None:
    """From 1 to 10 by its nine thresholds, which a reward must exceed: -6 itself is still 3."""
    thresholds = [-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875]
    rewards = [-9.0, -7.71875, -7.7, -6.0, -5.99, -5.0, -2.046875, -2.0, 5.0]
    assert grade_rewards(rewards, thresholds).tolist() == [1, 1, 2, 3, 4, 6, 9, 10, 10]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: scoring.calibrate_threshold([0.1, 0.2], [True, True]), "all the same"),
        (lambda: scoring.calibrate_threshold([0.1], [True, False]), "labels"),
        (lambda: grade_rewards([1.0], [2.0, 1.0]), "do not rise"),
        (lambda: novelty_bench("?", ["a"], lambda p, t: [1.0, 2.0]), "one finite number"),
        (lambda: novelty_classes([], same=lambda a, b: True), "no texts"),
        (lambda: scoring.load_pairs("/missing"), "Cannot read"),
    ],
)
def test_bad_input(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_labelled_pairs_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"a": "x", "b": "y", "same": false}\n')
    assert scoring.load_pairs(file) == ([("x", "y")], [False])
    file.write_text('{"a": "x", "same": 1}\n')
    with pytest.raises(InputError, match="pair 1 lacks"):
        scoring.load_pairs(file)
