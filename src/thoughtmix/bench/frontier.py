"""Choosing settings on development prompts, and frontiers for drawing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thoughtmix.bench import statistics as st
from thoughtmix.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Band:
    """A frontier with its pointwise interval: diversity at each quality."""

    quality: tuple[float, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def choose_settings(development: st.Curve, keep: int, reference: tuple[float, float]) -> list[int]:
    """The `keep` settings whose frontier has the largest hypervolume on development prompts.

    Everyone keeps as many, so that nobody's frontier has more points. Ties go to the lower indices.
    """
    count = development.quality.shape[1]
    if not 1 <= keep <= count:
        raise InputError(f"Cannot keep {keep} of {count} settings.", f"Pass --keep 1 to {count}.")
    q, d = development.quality.mean(0), development.diversity.mean(0)
    subsets = np.array(list(itertools.combinations(range(count), keep)))
    areas = st.hypervolume(q[subsets], d[subsets], reference)
    return [int(i) for i in subsets[int(np.argmax(areas))]]


def best_setting(development: st.Curve, chosen: Sequence[int], floor: float) -> int:
    """Of the chosen settings, the most diverse with at least `floor` mean quality on development prompts.

    When none reaches it, the one of highest quality.
    """
    q, d = development.quality.mean(0)[list(chosen)], development.diversity.mean(0)[list(chosen)]
    good = q >= floor
    return chosen[int(np.argmax(np.where(good, d, -np.inf)) if good.any() else np.argmax(q))]


def quality_levels(development: Sequence[st.Curve], count: int = 3) -> list[float]:
    """Quality levels at which diversity is compared, fixed before the held-out prompts are looked at.

    They are evenly spaced quantiles of what the settings of all systems reached on development prompts.
    """
    q = np.concatenate([c.quality.mean(0) for c in development])
    return [float(v) for v in np.quantile(q, np.linspace(0, 1, count + 2)[1:-1])]


def band(own: st.Curve, rng: np.random.Generator, points: int = 25, resamples: int = 999) -> Band:
    """A frontier for drawing. Where some resamples do not reach a quality, the interval is of those that do."""
    q = own.quality.mean(0)
    grid = np.linspace(q.min(), q.max(), points) if q.max() > q.min() else q[:1]
    units = len(own.quality)
    counts = rng.multinomial(units, np.full(units, 1 / units), resamples) / units
    drawn = st.diversity_at(counts @ own.quality, counts @ own.diversity, grid)  # (resamples, points)
    middle = st.diversity_at(q, own.diversity.mean(0), grid)
    low, high = (
        np.array(
            [np.nanquantile(c, share) if np.isfinite(c).any() else m for c, m in zip(drawn.T, middle, strict=True)]
        )
        for share in (0.025, 0.975)
    )
    return Band(*(tuple(round(float(v), 5) for v in values) for values in (grid, middle, low, high)))
