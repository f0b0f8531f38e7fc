"""The arithmetic of PUCT, for every tree search here: which child next."""

from __future__ import annotations


def bonus(exploration: float, visits: float, prior: float, played: float) -> float:
    """What curiosity adds to a child's mean value: c sqrt(N) P / (1 + n) (Silver et al. 2017, "Mastering the game of Go
    without human knowledge", methods). visits: N of the parent; prior: P of the child; played: n of the child."""
    return exploration * visits**0.5 * prior / (1 + played)


def rescaled(value: float, low: float, high: float) -> float:
    """A value to [0, 1] between the least and the largest seen (Schrittwieser et al. 2020, MuZero, eq. 5); 0.5 where
    all are equal."""
    return (value - low) / (high - low) if high > low else 0.5
