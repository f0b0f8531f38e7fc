"""Statistics of the bench: against scipy and moocore, and as laws that hold for every input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from thoughtmix import InputError, NumericsError
from thoughtmix.bench import statistics as s

seeds = st.integers(0, 10**6)


def skewed(seed: int, units: int = 30) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    a = rng.lognormal(0, 0.8, units)
    return a, a * rng.uniform(0.5, 1.5, units)


def curves(seed: int, units: int = 25, shift: float = 0.0) -> tuple[s.Curve, s.Curve]:
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.3, (units, 1))
    q, d = np.linspace(-2, -1, 4), np.linspace(6, 4, 4)
    made = [s.Curve(q + base + rng.normal(0, 0.2, (units, 4)), d + rng.normal(0, 0.5, (units, 4))) for _ in range(2)]
    return s.Curve(made[0].quality, made[0].diversity + shift), made[1]


@settings(max_examples=12, deadline=None)
@given(seed=seeds, confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_equal_scipy(seed: int, confidence: float) -> None:
    a, b = skewed(seed)
    for ours, statistic in (
        (s.mean_difference, lambda x, y, axis: x.mean(axis) - y.mean(axis)),
        (s.ratio_of_means, lambda x, y, axis: x.mean(axis) / y.mean(axis)),
    ):
        got = ours(a, b, np.random.default_rng(seed), confidence=confidence, resamples=999, expand=False)
        want = stats.bootstrap(
            (a, b), statistic, paired=True, vectorized=True, method="BCa", confidence_level=confidence,
            n_resamples=999, rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        assert (got.low, got.high) == pytest.approx((want.low, want.high), rel=1e-9, abs=1e-12)
        assert got.value == pytest.approx(statistic(a, b, 0))


def test_few_units_give_longer_intervals_by_the_factor_of_t() -> None:
    """Symmetric data, no bias or skew: the ratio of half-widths is t sqrt(n / (n-1)) / z."""
    x = np.linspace(-1, 1, 12)
    wide, plain = (
        s.mean_difference(x, x * 0, np.random.default_rng(0), expand=e, resamples=20_000) for e in (True, False)
    )
    want = stats.t.ppf(0.975, 11) * math.sqrt(12 / 11) / stats.norm.ppf(0.975)
    assert (wide.high - wide.low) / (plain.high - plain.low) == pytest.approx(want, rel=0.03)


def test_drawing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = skewed(3)
    whole = s.mean_difference(a, b, np.random.default_rng(1), resamples=500)
    monkeypatch.setattr(s, "_CHUNK", 30 * 7)
    parts = s.mean_difference(a, b, np.random.default_rng(1), resamples=500)
    assert (parts.low, parts.high, parts.p) == pytest.approx((whole.low, whole.high, whole.p), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=seeds, shift=st.floats(-0.6, 0.6), units=st.integers(6, 40), whole=st.booleans())
def test_p_and_interval_say_the_same(seed: int, shift: float, units: int, whole: bool) -> None:
    """p < 0.05 exactly when the 95% interval leaves out the null value, with ties and undefined resamples too."""
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, units)
    x = np.round(x) if whole else x
    got = s.mean_difference(x, np.zeros(units), rng, resamples=199)
    assert (got.p < 0.05) == (not got.covers_null)
    assert got.low <= got.high
    a, b = curves(seed, units, shift * 3)
    got = s.difference_at(a, b, -1.9, rng, resamples=199)  # near the end: some resamples do not reach it
    assert math.isnan(got.value) or (got.p < 0.05) == (not got.covers_null)


def test_undefined_resamples_widen_the_interval_and_are_reported() -> None:
    a, b = curves(0)
    inside = s.difference_at(a, b, -1.5, np.random.default_rng(0))
    assert inside.undefined == 0 and math.isfinite(inside.low) and math.isfinite(inside.high)
    edge = float(np.mean(a.quality[:, 0])) + 0.001
    at_edge = s.difference_at(a, b, edge, np.random.default_rng(0))
    assert at_edge.undefined > 0.1
    assert (at_edge.low, at_edge.high) == (-math.inf, math.inf)
    outside = s.difference_at(a, b, 3.0, np.random.default_rng(0))
    assert math.isnan(outside.value) and math.isnan(outside.p) and outside.undefined == 1


def test_a_real_difference_is_found_and_its_sign_is_right() -> None:
    a, b = curves(5, 40, shift=1.0)
    up = s.difference_at(a, b, -1.5, np.random.default_rng(0))
    assert up.low > 0.5 and up.high < 1.5 and up.p < 0.001
    ratio = s.hypervolume_ratio(a, b, (-4.0, 1.0), np.random.default_rng(0))
    assert ratio.low > 1
    back = s.hypervolume_ratio(b, a, (-4.0, 1.0), np.random.default_rng(0))
    assert (1 / back.value, 1 / back.high, 1 / back.low) == pytest.approx(
        (ratio.value, ratio.low, ratio.high), rel=2e-2
    )


def test_no_variation_gives_a_point() -> None:
    got = s.mean_difference([2.0] * 9, [1.5] * 9, np.random.default_rng(0), resamples=99)
    assert got.value == pytest.approx(0.5) and got.low == got.high == got.value
    assert got.p == pytest.approx(1 / 99)
    four = s.mean_difference([2.0] * 4, [1.5] * 4, np.random.default_rng(0), resamples=99)
    assert four.p == 0.125, "four prompts that agree are a chance of two in sixteen"
    same = s.ratio_of_means([2.0] * 9, [2.0] * 9, np.random.default_rng(0), resamples=99)
    assert (same.low, same.high, same.p) == (1, 1, 1)
    assert math.isnan(s.ratio_of_means([1.0, 2], [0.0, 0], np.random.default_rng(0)).value)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.full(30, 0.1 + 0.2), np.full(30, 0.3)),
        (np.array([0.1 + 0.2, 0.7, 1.1 * 3] * 10), np.array([0.3, 0.7, 3.3] * 10)),
        (np.full(30, np.mean([0.1] * 3)), np.full(30, 0.1)),
        (np.full(30, (0.1 + 0.2) * 1e300), np.full(30, 0.3 * 1e300)),
        (np.full(30, -1e-300 * 0.3), np.full(30, -1e-300 * (0.1 + 0.2))),
    ],
)
def test_rounding_is_no_difference(a: Any, b: Any) -> None:
    """Every prompt differs by 5.6e-17 in the same direction: once the surest finding of all (p = 0.0001)."""
    got = s.mean_difference(a, b, np.random.default_rng(0))
    assert (got.value, got.low, got.high, got.p) == (0, 0, 0, 1)
    ratio = s.ratio_of_means(np.abs(a), np.abs(b), np.random.default_rng(0))
    assert (ratio.value, ratio.low, ratio.high, ratio.p) == (1, 1, 1, 1)


def test_rounding_of_curves_is_no_difference() -> None:
    a, _ = curves(2)
    b = s.Curve(a.quality, a.diversity * (1 + 2**-52))
    at = s.difference_at(a, b, -1.5, np.random.default_rng(0), resamples=499)
    assert (at.value, at.low, at.high, at.p) == (0, 0, 0, 1)
    ratio = s.hypervolume_ratio(a, b, (-4.0, 1.0), np.random.default_rng(0), resamples=499)
    assert (ratio.value, ratio.low, ratio.high, ratio.p) == (1, 1, 1, 1)


def test_small_differences_that_the_data_can_show_are_found() -> None:
    small = s.mean_difference(np.full(30, 1 + 1e-12), np.ones(30), np.random.default_rng(0))
    assert small.value == pytest.approx(1e-12, rel=1e-3) and small.p < 0.001
    far = s.mean_difference(np.full(30, 1e15) + np.arange(30) % 2, np.full(30, 1e15), np.random.default_rng(0))
    assert far.value == pytest.approx(0.5) and far.p < 0.001
    least = s.mean_difference(np.full(30, 5e-324), np.zeros(30), np.random.default_rng(0))
    assert least.value == 5e-324 and least.p < 0.001


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e300, 1.7e308, 1e-300, 2.0**-1000])
def test_the_unit_of_the_data_changes_nothing(size: float) -> None:
    a, b = np.r_[size, np.zeros(29)], np.r_[-size, np.zeros(29)]
    for other in (np.zeros(30), b):
        got = s.mean_difference(a, other, np.random.default_rng(0))
        want = s.mean_difference(a / size, other / size, np.random.default_rng(0))
        assert got.p == pytest.approx(want.p)
        assert [v / size for v in (got.value, got.low, got.high)] == pytest.approx([want.value, want.low, want.high])


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda r: s.mean_difference([1.0], [2.0], r), InputError, "bootstrap over 1"),
        (lambda r: s.mean_difference([1.0, 2], [2.0], r), InputError, "shapes"),
        (lambda r: s.mean_difference([1.0, math.nan], [2.0, 1], r), NumericsError, "NaN"),
        (lambda r: s.ratio_of_means([1.0, -1], [2.0, 1], r), InputError, "0 or more"),
        (lambda r: s.mean_difference([1.0, 2], [2.0, 1], r, confidence=95), InputError, "confidence=95"),
        (lambda r: s.Curve(np.zeros(3), np.zeros(3)), InputError, "shapes"),
        (lambda r: s.Curve(np.full((3, 1), np.inf), np.zeros((3, 1))), NumericsError, "infinite"),
        (lambda r: s.hypervolume_ratio(curves(0, 5)[0], curves(0, 6)[0], (0, 0), r), InputError, "5 prompts against 6"),
        (lambda r: s.holm([0.5, 1.5]), InputError, "0 to 1"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        call(np.random.default_rng(0))


def test_holm_on_a_worked_example() -> None:
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, then never below the one before."""
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.9, 0.9]) == pytest.approx([1, 1])
    with_nan = s.holm([0.01, math.nan])
    assert with_nan[0] == pytest.approx(0.02) and math.isnan(with_nan[1])


@settings(max_examples=60, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=9), alpha=st.floats(0.01, 0.2))
def test_holm_equals_the_step_down_rule(p: list[float], alpha: float) -> None:
    """Reject while p_(i) <= alpha / (m - i), stop at the first failure."""
    adjusted, order = s.holm(p), np.argsort(p, kind="stable")
    rejecting = True
    for i, index in enumerate(order):
        rejecting = rejecting and p[index] * (len(p) - i) <= alpha
        assert (adjusted[index] <= alpha) == rejecting


@settings(max_examples=60, deadline=None)
@given(seed=seeds, settings_=st.integers(1, 9))
def test_hypervolume_equals_moocore(seed: int, settings_: int) -> None:
    moocore = pytest.importorskip("moocore")
    points = np.random.default_rng(seed).normal(0, 1, (6, settings_, 2))
    points[3:] = np.round(points[3:])  # ties
    reference = (-0.5, -1.0)
    got = s.hypervolume(points[..., 0], points[..., 1], reference)
    want = [moocore.hypervolume(-p, ref=-np.array(reference)) for p in points]
    assert got == pytest.approx(want, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_hypervolume_grows_with_a_setting_and_with_each_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, d = rng.normal(0, 1, 5), rng.normal(0, 1, 5)
    base = s.hypervolume(q[:4], d[:4], (-1, -1))
    assert s.hypervolume(q, d, (-1, -1)) >= base - 1e-12
    assert s.hypervolume(q[:4], d[:4] + 0.1, (-1, -1)) >= base
    assert s.hypervolume(d[:4], q[:4], (-1, -1)) == pytest.approx(float(base)), "the axes are alike"


@settings(max_examples=60, deadline=None)
@given(seed=seeds, settings_=st.integers(2, 7))
def test_diversity_at_equals_interp_and_never_extrapolates(seed: int, settings_: int) -> None:
    rng = np.random.default_rng(seed)
    q, d = rng.normal(0, 1, (4, settings_)), rng.normal(0, 1, (4, settings_))
    levels = np.array([-0.5, 0.0, 0.7, q[0, 0], 9.0])
    got = s.diversity_at(q, d, levels)
    for row in range(4):
        order = np.argsort(q[row])
        want = np.interp(levels, q[row][order], d[row][order], left=np.nan, right=np.nan)
        np.testing.assert_allclose(got[row], want, atol=1e-12)
    assert s.diversity_at([1.0], [5.0], [1.0, 1.1])[0] == 5
    assert np.isnan(s.diversity_at([1.0], [5.0], [1.0, 1.1])[1])


def test_the_global_random_state_is_left_alone(global_state_untouched: None) -> None:
    a, b = curves(1)
    s.hypervolume_ratio(a, b, (-4.0, 1.0), np.random.default_rng(0), resamples=99)
