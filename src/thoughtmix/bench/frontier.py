"""Choose settings on development prompts, compare on held-out ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thoughtmix.bench import statistics as st
from thoughtmix.bench.scoring import SECONDARY, Axes
from thoughtmix.bench.tasks import Kind
from thoughtmix.core.errors import InputError

Floats = NDArray[np.float64]
Lookup = Callable[[str, int, str, int, str], float]
"""(thinker, setting, item, seed, score name) -> number."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A thinker beside the baseline in one respect."""

    thinker: str
    measure: str
    interval: st.Interval
    adjusted: float
    """p after Holm's correction for every comparison of the same kind of item."""


@dataclass(frozen=True, slots=True)
class Band:
    """A frontier with its pointwise interval: diversity at each quality."""

    quality: tuple[float, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def table(
    lookup: Lookup, thinker: str, settings: Sequence[int], items: Sequence[str], seeds: Sequence[int], name: str
) -> Floats:
    """(items, settings) of one score, seeds averaged: the item is the unit."""
    return np.array(
        [[np.mean([lookup(thinker, s, item, seed, name) for seed in seeds]) for s in settings] for item in items]
    )


def curve(
    lookup: Lookup, thinker: str, settings: Sequence[int], items: Sequence[str], seeds: Sequence[int], axes: Axes
) -> st.Curve:
    return st.Curve(*(table(lookup, thinker, settings, items, seeds, name) for name in (axes.quality, axes.diversity)))


def choose(development: st.Curve, keep: int, reference: tuple[float, float]) -> list[int]:
    """The `keep` settings whose frontier has the largest hypervolume on development prompts; everyone keeps as many, so
    that nobody's frontier has more points. Ties go to the lower indices."""
    count = development.quality.shape[1]
    if not 1 <= keep <= count:
        raise InputError(f"Cannot keep {keep} of {count} settings.", f"Pass --keep 1 to {count}.")
    q, d = development.quality.mean(0), development.diversity.mean(0)
    subsets = np.array(list(itertools.combinations(range(count), keep)))
    areas = st.hypervolume(q[subsets], d[subsets], reference)
    return [int(i) for i in subsets[int(np.argmax(areas))]]


def levels(development: Sequence[st.Curve], count: int = 3) -> list[float]:
    """Quality levels at which diversity is compared: evenly spaced quantiles of what all thinkers' settings reached on
    development prompts, fixed before the held-out ones are looked at."""
    q = np.concatenate([c.quality.mean(0) for c in development])
    return [float(v) for v in np.quantile(q, np.linspace(0, 1, count + 2)[1:-1])]


def compare(
    curves: Mapping[str, st.Curve],
    best: Mapping[str, Mapping[str, Floats]],
    baseline: str,
    at: Sequence[float],
    axes: Axes,
    kind: Kind,
    rng: np.random.Generator,
    resamples: int = 9999,
) -> list[Comparison]:
    """Every thinker against the baseline on held-out prompts.

    curves: by thinker. best: by thinker, scores (items,) at its `best_setting`. Measures: the hypervolume ratio,
    diversity at each level of quality, and at the best settings the differences of diversity and secondary scores.
    """
    found: list[tuple[str, str, st.Interval]] = []
    base = curves[baseline]
    for name, own in curves.items():
        if name == baseline:
            continue
        found.append(
            (name, "hypervolume ratio", st.hypervolume_ratio(own, base, axes.reference, rng, resamples=resamples))
        )
        for level in at:
            label = f"{axes.diversity} at {axes.quality} {level:.3g}"
            found.append((name, label, st.difference_at(own, base, level, rng, resamples=resamples)))
        for score in (axes.diversity, *SECONDARY[kind]):
            if score in best[name] and score in best[baseline]:
                got = st.mean_difference(best[name][score], best[baseline][score], rng, resamples=resamples)
                found.append((name, f"{score}, best setting", got))
    adjusted = st.holm([interval.p for _, _, interval in found])
    return [Comparison(*row, float(p)) for row, p in zip(found, adjusted, strict=True)]


def best_setting(development: st.Curve, chosen: Sequence[int], floor: float) -> int:
    """Of the chosen settings, the most diverse with at least `floor` mean quality on development prompts; when none
    reaches it, the one of highest quality."""
    q, d = development.quality.mean(0)[list(chosen)], development.diversity.mean(0)[list(chosen)]
    good = q >= floor
    return chosen[int(np.argmax(np.where(good, d, -np.inf)) if good.any() else np.argmax(q))]


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
