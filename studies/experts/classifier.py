"""Judges that are not the model: a naive Bayes classifier of domains and an n-gram language model, both over bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_BITS = 18


def _grams(text: str, n: int) -> NDArray[np.int64]:
    """Hashes of the byte n-grams of a text."""
    data = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint64)
    if len(data) < n:
        return np.zeros(0, dtype=np.int64)
    out = np.full(len(data) - n + 1, n, dtype=np.uint64)
    for i in range(n):
        out = (out ^ data[i : len(data) - n + 1 + i]) * np.uint64(0x9E3779B97F4A7C15)
        out ^= out >> np.uint64(29)
    return (out >> np.uint64(64 - _BITS)).astype(np.int64)


class DomainClassifier:
    """Multinomial naive Bayes over byte 1- to 4-grams, as many texts of each domain before it looks."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.domains = tuple(texts)
        counts = np.stack([sum(self._count(text, n) for n in range(1, 5)) for text in texts.values()]) + 0.5
        self._log = np.log(counts / counts.sum(1, keepdims=True))

    @staticmethod
    def _count(text: str, n: int) -> Array:
        return np.bincount(_grams(text, n), minlength=1 << _BITS).astype(np.float64)

    def scores(self, text: str) -> Array:
        """(domains,) mean log-probability of an n-gram, nats, less the mean over domains: how much each is favoured."""
        grams = np.concatenate([_grams(text, n) for n in range(1, 5)])
        if not len(grams):
            return np.zeros(len(self.domains))
        each: Array = self._log[:, grams].mean(1)
        return each - each.mean()


class NgramJudge:
    """Interpolated byte n-grams (Witten-Bell), orders 1 to 6, over all domains: likelihood under a model that shares
    nothing with the generator."""

    def __init__(self, text: str, order: int = 6) -> None:
        self.order = order
        self._whole = [np.bincount(_grams(text, n), minlength=1 << _BITS) for n in range(1, order + 1)]
        self._next = []  # how many different bytes follow a context
        for n in range(2, order + 1):
            data = text.encode("utf-8")
            context = _grams(text, n - 1)[: len(data) - n + 1]
            pairs = np.unique(context << _BITS | _grams(text, n))
            self._next.append(np.bincount(pairs >> _BITS, minlength=1 << _BITS))
        self._total = len(text.encode())

    def nats_per_byte(self, text: str) -> float:
        data = text.encode()
        if len(data) < self.order:
            return float("nan")
        p = (self._whole[0][_grams(text, 1)] + 0.5) / (self._total + 128)
        for n in range(2, self.order + 1):
            context, whole = _grams(text, n - 1)[: len(data) - n + 1], _grams(text, n)
            seen, kinds = self._whole[n - 2][context], self._next[n - 2][context]
            p = p[1:] if len(p) > len(whole) else p
            p = np.where(seen > 0, (self._whole[n - 1][whole] + kinds * p) / np.maximum(seen + kinds, 1), p)
        return float(-np.log(np.clip(p, 1e-12, 1)).mean())
