"""Intervals for comparisons of systems: paired bootstrap over prompts, frontiers, correction for many tests.

The unit is the prompt: average its seeds first, then resample prompts. Systems that are compared saw the same prompts,
so one draw of prompts serves both (paired). The generator is always the caller's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from thoughtmix.core.errors import InputError, NumericsError

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""(b, units) weights, rows that sum to 1 -> (b,) values, NaN where undefined: a function of weighted means."""

_NORMAL = NormalDist()
_CHUNK = 2**21  # weights in memory at once
_EPSILON = float(np.finfo(np.float64).eps)
_ROUNDING = 64 * _EPSILON  # of a statistic, relative to what it is computed from: sums over units and settings


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bootstrap interval."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, from the interval: from 6 units on, p < 0.05 exactly when the 95% interval leaves out the null value.
    Never below 2^(1 - units), the least that signs alone can show: few prompts cannot prove much."""
    null: float
    confidence: float
    units: int
    undefined: float = 0.0
    """Share of resamples in which the statistic does not exist (a quality level that a system does not reach...).
    They are not dropped: they count as -inf for `low` and as +inf for `high`."""

    @property
    def covers_null(self) -> bool:
        return self.low <= self.null <= self.high


def bootstrap(
    statistic: Statistic,
    units: int,
    rng: np.random.Generator,
    *,
    null: float = 0.0,
    confidence: float = 0.95,
    resamples: int = 9999,
    expand: bool = True,
    precision: float | None = None,
) -> Interval:
    """The BCa interval (Efron 1987) of a statistic of `units` independent units.

    The p-value inverts the interval: the smallest 1 - confidence at which it leaves out `null`, but never below
    1 / resamples and 2^(1 - units). Where the statistic itself is undefined, so are interval and p (NaN, undefined=1).

    Args:
        expand: widen the tails to those of Student's t times sqrt(n / (n-1)), since a bootstrap interval of few units
            is too short (Hesterberg 2015). Without it, this is `scipy.stats.bootstrap(method="BCa")` to rounding, from
            the same generator.
        precision: how far rounding alone can put the statistic from `null`; what is nearer is `null`. None: 64 units in
            the last place of `null`, so that a ratio of equals is 1. A null of 0 has no last place: say it.

    Raises:
        InputError: for fewer than 2 units, a confidence outside (0, 1) or no resamples.
    """
    if units < 2:
        raise InputError(f"A bootstrap over {units} prompts.", "Pass at least 2; honest intervals take 30 or more.")
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(f"confidence={confidence}, resamples={resamples}.", "Pass confidence=0.95, resamples=9999.")
    nearest = _ROUNDING * abs(null) if precision is None else precision
    value = float(_snapped(statistic(np.full((1, units), 1 / units)), null, nearest)[0])
    if math.isnan(value):
        return Interval(value, value, value, value, null, confidence, units, 1.0)
    drawn = _snapped(_resample(statistic, units, rng, resamples), null, nearest)
    drawn = np.where(np.isclose(drawn, value, rtol=1e-12, atol=0), value, drawn)  # equal but for rounding is equal
    missing = np.isnan(drawn)
    below, above = np.sort(np.where(missing, -np.inf, drawn)), np.sort(np.where(missing, np.inf, drawn))
    correction = _Correction.from_resamples(
        drawn[~missing], value, _acceleration(statistic, units), units if expand else 0
    )
    low = _quantile(below, correction.share((1 - confidence) / 2))
    high = _quantile(above, correction.share((1 + confidence) / 2))
    tail = min(
        correction.tail(_quantile_inverse(below, null)[1]), 1 - correction.tail(_quantile_inverse(above, null)[0])
    )
    p = min(1.0, max(2 * tail, 1 / resamples, 2.0 ** (1 - units)))
    return Interval(value, low, high, p, null, confidence, units, float(missing.mean()))


@dataclass(frozen=True, slots=True)
class _Correction:
    """Bias z0 and acceleration a: the share of resamples below an end of the interval (Efron 1987, eq. 2.3)."""

    z0: float
    a: float
    units: int
    """For expanded tails; 0: the normal ones."""

    @classmethod
    def from_resamples(cls, drawn: Floats, value: float, a: float, units: int) -> _Correction:
        if not len(drawn):
            return cls(0.0, 0.0, units)
        rank = float(((drawn < value).mean() + (drawn <= value).mean()) / 2)  # ties half
        least = 0.5 / len(drawn)
        return cls(_NORMAL.inv_cdf(min(max(rank, least), 1 - least)), a, units)

    def share(self, tail: float) -> float:
        """Tail probability, 0.025 say -> share of the sorted resamples."""
        if self.units:
            tail_z = float(student_t.ppf(tail, self.units - 1)) * math.sqrt(self.units / (self.units - 1))
        else:
            tail_z = _NORMAL.inv_cdf(tail)
        z = self.z0 + tail_z
        scale = 1 - self.a * z
        return _NORMAL.cdf(self.z0 + z / scale) if scale > 0 else float(z > 0)

    def tail(self, share: float) -> float:
        """The inverse of `share`."""
        if not 0 < share < 1:
            return share
        w = _NORMAL.inv_cdf(share) - self.z0
        scale = 1 + self.a * w
        z = w / scale - self.z0 if scale > 0 else math.copysign(math.inf, w)
        if self.units:
            return float(student_t.cdf(z * math.sqrt((self.units - 1) / self.units), self.units - 1))
        return _NORMAL.cdf(z)


def mean_difference(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, **how: Any) -> Interval:
    """mean(a) - mean(b) over the same units, a and b of shape (units,). The null value is 0.

    A difference of a unit below the precision of its two values (4 units in the last place) is 0: 0.1 + 0.2 against 0.3
    is no finding, however many prompts agree on it.
    """
    x, y = _paired(a, b)
    largest = max((float(np.abs(v).max(initial=0)) for v in (x, y)), default=0.0)
    exponent = math.frexp(largest)[1]  # computed on values up to 1: a power of two changes no digit
    x, y = np.ldexp(x, -exponent), np.ldexp(y, -exponent)
    difference = _snapped(x - y, 0.0, 4 * _EPSILON * np.maximum(np.abs(x), np.abs(y)))
    precision = _ROUNDING * float(np.abs(difference).max(initial=0))
    found = bootstrap(lambda w: w @ difference, len(difference), rng, null=0.0, precision=precision, **how)
    value, low, high = (_ldexp(v, exponent) for v in (found.value, found.low, found.high))
    return dataclasses.replace(found, value=value, low=low, high=high)


def _snapped(values: Floats, to: float, within: float | Floats) -> Floats:
    """Values nearer to `to` than `within` are `to`."""
    return np.where(np.abs(values - to) <= within, to, values)


def _ldexp(value: float, exponent: int) -> float:
    """value * 2^exponent, infinite where that is too large."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(math.inf, value)


def ratio_of_means(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, **how: Any) -> Interval:
    """mean(a) / mean(b) over the same units, a and b of shape (units,), none negative.

    The null value is 1. The ratio is undefined where b is all 0.
    """
    x, y = _paired(a, b)
    if (x < 0).any() or (y < 0).any():
        raise InputError("A ratio of means needs values of 0 or more.", "Use mean_difference.")
    return bootstrap(lambda w: _ratio(w @ x, w @ y), len(x), rng, null=1.0, **how)


def holm(p: ArrayLike) -> Floats:
    """p-values adjusted for their number (Holm 1979), in the order given.

    NaN (no test was possible) stays NaN and still counts as a test, so that a failed one cannot make the others look
    better.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or ((values < 0) | (values > 1)).any():
        raise InputError("p-values must be a list of numbers from 0 to 1.", "Pass Interval.p of each comparison.")
    order = np.argsort(values, kind="stable")  # NaN last
    scaled = values[order] * (len(values) - np.arange(len(values)))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted


def least_units(comparisons: int, level: float = 0.05) -> int:
    """The fewest units with which one of so many comparisons can have p < level after Holm's correction.

    `Interval.p` is never below 2^(1 - units): with fewer, no result whatever can tell a difference.
    """
    return 2 + math.floor(math.log2(max(comparisons, 1) / level))


def diversity_at(quality: ArrayLike, diversity: ArrayLike, levels: ArrayLike) -> Floats:
    """Diversity of a frontier at fixed quality levels: linear between neighbours in quality, never beyond its ends.

    Args:
        quality: (..., settings), higher is better.
        diversity: (..., settings), higher is better.
        levels: (l,).

    Returns:
        (..., l), NaN where a level lies outside the qualities reached.
    """
    q, d = np.broadcast_arrays(np.asarray(quality, dtype=np.float64), np.asarray(diversity, dtype=np.float64))
    order = np.argsort(q, axis=-1, kind="stable")
    q, d = np.take_along_axis(q, order, -1), np.take_along_axis(d, order, -1)
    wanted = np.atleast_1d(np.asarray(levels, dtype=np.float64))
    last = q.shape[-1] - 1
    right = np.minimum((q[..., None, :] < wanted[:, None]).sum(-1), last)  # (..., l): first setting at or above
    left = np.maximum(right - 1, 0)
    ql, qr = np.take_along_axis(q, left, -1), np.take_along_axis(q, right, -1)
    dl, dr = np.take_along_axis(d, left, -1), np.take_along_axis(d, right, -1)
    share = np.divide(wanted - ql, qr - ql, out=np.ones_like(qr), where=qr > ql)
    inside = (wanted >= q[..., :1]) & (wanted <= q[..., -1:])
    return np.where(inside, dl + share * (dr - dl), np.nan)


def hypervolume(quality: ArrayLike, diversity: ArrayLike, reference: tuple[float, float]) -> Floats:
    """Area between a frontier and a fixed reference point (quality, diversity), both to be maximised.

    Zitzler & Thiele 1998. From (..., settings) to (...), 0 and up. A setting that does not beat the reference in both
    adds nothing. Areas compare only with the same reference point.
    """
    q, d = np.broadcast_arrays(np.asarray(quality, dtype=np.float64), np.asarray(diversity, dtype=np.float64))
    q = np.maximum(q - reference[0], 0)
    d = np.where(q > 0, np.maximum(d - reference[1], 0), 0)
    order = np.argsort(-q, axis=-1, kind="stable")
    q, d = np.take_along_axis(q, order, -1), np.take_along_axis(d, order, -1)
    width = q - np.concatenate([q[..., 1:], np.zeros_like(q[..., :1])], -1)  # down to the next lower quality
    return np.asarray((width * np.maximum.accumulate(d, -1)).sum(-1))


@dataclass(frozen=True, slots=True)
class Curve:
    """The settings of a system, scored on each prompt: quality and diversity (units, settings), seeds averaged."""

    quality: Floats
    diversity: Floats

    def __post_init__(self) -> None:
        if self.quality.ndim != 2 or self.quality.shape != self.diversity.shape or not self.quality.size:
            shapes = f"{self.quality.shape} and {self.diversity.shape}"
            raise InputError(f"Quality and diversity have shapes {shapes}.", "Pass (prompts, settings) for both.")
        if not (np.isfinite(self.quality).all() and np.isfinite(self.diversity).all()):
            raise NumericsError("A score is NaN or infinite.", "Check the judge and the embedder.")


def hypervolume_ratio(
    a: Curve, b: Curve, reference: tuple[float, float], rng: np.random.Generator, **how: Any
) -> Interval:
    """Hypervolume of a / hypervolume of b, of the mean frontiers over the same prompts. The null value is 1."""
    units = _same_units(a, b)

    def statistic(w: Floats) -> Floats:
        return _ratio(
            hypervolume(w @ a.quality, w @ a.diversity, reference),
            hypervolume(w @ b.quality, w @ b.diversity, reference),
        )

    return bootstrap(statistic, units, rng, null=1.0, **how)


def difference_at(a: Curve, b: Curve, level: float, rng: np.random.Generator, **how: Any) -> Interval:
    """Diversity of a minus that of b at the same quality, `level`, of the mean frontiers over the same prompts.

    The null value is 0. The difference is undefined where one of the two does not reach the level.
    """
    units = _same_units(a, b)

    def statistic(w: Floats) -> Floats:
        at = [diversity_at(w @ c.quality, w @ c.diversity, [level])[:, 0] for c in (a, b)]
        return np.asarray(at[0] - at[1])

    precision = _ROUNDING * float(max(np.abs(c.diversity).max() for c in (a, b)))
    return bootstrap(statistic, units, rng, null=0.0, precision=precision, **how)


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"Values of shapes {x.shape} and {y.shape}.", "Pass one of each a prompt, the same prompts.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise NumericsError("A score is NaN or infinite.", "Check the judge and the embedder.")
    return x, y


def _same_units(a: Curve, b: Curve) -> int:
    if len(a.quality) != len(b.quality):
        raise InputError(f"{len(a.quality)} prompts against {len(b.quality)}.", "Compare on the same prompts.")
    return len(a.quality)


def _ratio(x: Floats, y: Floats) -> Floats:
    return np.divide(x, y, out=np.full_like(x, np.nan), where=y > 0)


def _resample(statistic: Statistic, units: int, rng: np.random.Generator, resamples: int) -> Floats:
    """(resamples,) values of the statistic, from draws of units with replacement."""
    out, step = [], max(1, _CHUNK // units)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, units, (rows, units)) + units * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        out.append(statistic(counts / units))
    return np.concatenate(out)


def _acceleration(statistic: Statistic, units: int) -> float:
    """Skewness of the jackknife (Efron 1987, eq. 7.3); 0 when leaving out a unit changes nothing or undefines it."""
    left_out = statistic((1 - np.eye(units)) / (units - 1))
    u = left_out.mean() - left_out
    largest = float(np.abs(u).max())
    if not 0 < largest < math.inf:  # nor NaN
        return 0.0
    u = u / largest
    spread = float((u**2).sum())
    return float((u**3).sum() / (6 * spread**1.5))


def _quantile(ordered: Floats, share: float) -> float:
    """As `np.quantile` of sorted values, but between a finite and an infinite one it is the infinite one."""
    place = share * (len(ordered) - 1)
    left, right = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
    if left == right:
        return left
    if not math.isfinite(left) or not math.isfinite(right):
        return right if math.isfinite(left) else left
    return left + (right - left) * (place - math.floor(place))


def _quantile_inverse(ordered: Floats, value: float) -> tuple[float, float]:
    """The least and the largest share whose `_quantile` is `value`: its inverse, a range where values tie."""
    last = max(len(ordered) - 1, 1)
    first, past = (int(np.searchsorted(ordered, value, side)) for side in ("left", "right"))
    if first < past:
        return first / last, (past - 1) / last
    if first in {0, len(ordered)}:
        return (0.0, 0.0) if first == 0 else (1.0, 1.0)
    left, right = float(ordered[first - 1]), float(ordered[first])
    if math.isfinite(left) and math.isfinite(right):
        at = (first - 1 + (value - left) / (right - left)) / last
    else:
        at = (first - 1 if math.isfinite(left) else first) / last
    return at, at
