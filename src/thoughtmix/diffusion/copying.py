"""How much of a text stands word for word in another: a sign of a model that has learned its training text by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Copied:
    """longest: length of each text's longest substring that occurs in the source. share: of all spans of `span`
    characters in the texts, how many occur there."""

    longest: tuple[int, ...]
    share: float
    span: int


def copied(texts: Sequence[str], source: str, span: int = 30) -> Copied:
    found = total = 0
    for text in texts:
        for i in range(len(text) - span + 1):
            total += 1
            found += text[i : i + span] in source
    return Copied(tuple(_longest(text, source) for text in texts), found / max(total, 1), span)


def _longest(text: str, source: str) -> int:
    """By growing a window: whatever starts at i reaches at least as far as what started at i - 1."""
    best = end = 0
    for start in range(len(text)):
        end = max(end, start)
        while end < len(text) and text[start : end + 1] in source:
            end += 1
        best = max(best, end - start)
    return best
