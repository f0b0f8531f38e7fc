"""Token-level noise: words of a text become holes, by a thought's own seed."""

from __future__ import annotations

import re

from thoughtmix.core.errors import InputError, UnknownName

HOLE = "___"
HOW = ("random", "span")
SPAN = 4  # words that fall together
_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def check(level: object, how: str = "random") -> float:
    """A share of words, checked. Raises `InputError`."""
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level <= 1:
        raise InputError(f"tokens is {level!r}.", "Pass the share of words to mask, above 0 and up to 1 (tokens=0.3).")
    if how not in HOW:
        raise UnknownName("way of masking", how, HOW)
    return float(level)


def masked(text: str, level: float, seed: int, how: str = "random") -> str:
    """`text` with round(level * words), at least one, of its words replaced by ___; punctuation and spacing stay. Holes
    that touch (nothing but spaces between) become one, which hides how many words it stands for.

    how: random, each word by itself; span: stretches of up to 4 words from random places. The seed's own stream
    decides. A text without words becomes one hole.
    """
    from thoughtmix.engine.rng import NOISE, generator  # imports torch: not for the names alone

    level = check(level, how)
    words = list(_WORD.finditer(text))
    if not words:
        return HOLE
    count = max(1, round(level * len(words)))
    order = generator(seed, NOISE).permutation(len(words))
    gone: set[int] = set()
    for start in order.tolist():
        for at in range(start, min(start + (SPAN if how == "span" else 1), len(words))):
            if len(gone) < count:
                gone.add(at)
    out, end = [], 0
    for i, word in enumerate(words):
        between = text[end : word.start()]
        if i in gone and i - 1 in gone and not between.strip():
            end = word.end()
            continue
        out += [between, HOLE if i in gone else word.group()]
        end = word.end()
    return "".join([*out, text[end:]])
