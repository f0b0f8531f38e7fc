"""Student's t for whole degrees of freedom, in closed form: what small samples need, without scipy."""

from __future__ import annotations

import math


def cdf(t: float, freedom: int) -> float:
    """P(T <= t), T of `freedom` >= 1 degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    if math.isinf(t):
        return float(t > 0)
    angle = math.atan(t / math.sqrt(freedom))
    cos2 = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = (math.cos(angle) if odd else 1.0) if freedom > 1 else 0.0
    for i in range(2 + odd, freedom - 1, 2):
        term *= cos2 * (i - 1) / i
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + inside) / 2


def quantile(share: float, freedom: int) -> float:
    """The inverse of `cdf`, by bisection to the last bits."""
    if not 0 < share < 1:
        return math.copysign(math.inf, share - 0.5)
    low, high = -1.0, 1.0
    while cdf(low, freedom) > share:
        low *= 2
    while cdf(high, freedom) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2
