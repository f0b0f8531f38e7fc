"""What each thought adds to its set.

With V the value of a set, credit_i what thought i is credited with and S\\i the set without it, the advantage of i is

    A_i = credit_i(S) - mean over j of credit_j(S\\i),

whose second term does not depend on thought i. So sum_i A_i grad log p_i is an unbiased estimate of the gradient of
E[Phi] wherever a change of thought i alone changes credit_i as it changes Phi (an exact potential game: Monderer and
Shapley 1996). For known answers the credit is the Shapley value in the number of distinct valid answers, valid / (how
many gave the same), and Phi = sum over answers of the harmonic number of how many gave it (Rosenthal 1973). For open
prompts credit and Phi are those of V = log det(I + L) itself (a quality-weighted determinantal point process: Kulesza
and Taskar 2012, sec. 3.1).

Axis letters: n thoughts of a set, d width of an embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Credit = Callable[[Sequence[int]], Floats]
"""The credits of some thoughts, by index, as the set that they are."""

SPREAD = 4.0
"""Scales L, the largest for a single thought: more asks more loudly for difference."""
TOPIC = (0.1, 0.4)
"""Cosines of prompt and answer between which relevance rises from 0 to 1."""


def shapley_credit(answers: Sequence[str | None]) -> Credit:
    """1 / (how many of the set gave the same), 0 for None: the Shapley value in the count of distinct valid answers."""

    def credit(some: Sequence[int]) -> Floats:
        found = Counter(answers[i] for i in some)
        return np.array([0.0 if answers[i] is None else 1 / found[answers[i]] for i in some])

    return credit


def determinant_credit(
    vectors: NDArray[np.floating], quality: Sequence[float] | Floats, spread: float = SPREAD
) -> Credit:
    """What log det(I + L) loses when a thought is left out, in units of what one good thought alone has, 0 to 1.

    L = spread * diag(q) X X^T diag(q); the loss is -log of the diagonal of (I + L)^-1.

    Args:
        vectors: X (n, d), rows of length 1.
        quality: q (n,), 0 to 1.
        spread: See `SPREAD`.
    """
    weighted = np.asarray(vectors, dtype=np.float64) * np.asarray(quality, dtype=np.float64)[:, None]
    kernel = spread * weighted @ weighted.T

    def credit(some: Sequence[int]) -> Floats:
        part = kernel[np.ix_(some, some)]
        return np.asarray(-np.log(np.diag(np.linalg.inv(np.eye(len(part)) + part))) / np.log1p(spread))

    return credit


def relevance(cosines: NDArray[np.floating]) -> Floats:
    """Cosines of prompt and answers (n,) -> 0 to 1, linear within `TOPIC`."""
    low, high = TOPIC
    return np.clip((np.asarray(cosines, dtype=np.float64) - low) / (high - low), 0.0, 1.0)


def advantages(credit: Credit, n: int) -> Floats:
    """(n,) of every thought, as above; n of 2 or more."""
    whole = credit(range(n))
    return np.array([whole[i] - credit([j for j in range(n) if j != i]).mean() for i in range(n)])
