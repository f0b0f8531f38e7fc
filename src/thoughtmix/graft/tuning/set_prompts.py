"""Prompts to practise on, and who says what a text is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

KINDS = (
    *("category", "task", "category", "puzzle", "category", "category"),
    *("category", "task", "category", "puzzle", "category", "open"),
)
"""What the prompts of a step are, in turn; a kind that a world lacks is left out."""


@dataclass(frozen=True, slots=True)
class PracticePrompt:
    """One prompt.

    Args:
        name: By which a run knows it again.
        kind: One of `KINDS`.
        ways: To ask it.
        answer: What a text answers, in a form in which equal answers are equal, and None where it is wrong. None for an
            open prompt, whose texts are valued by completeness, topic and distance.
    """

    name: str
    kind: str
    ways: tuple[str, ...]
    answer: Callable[[str], str | None] | None = None


def drawn_prompts(prompts: Sequence[PracticePrompt], step: int, count: int, seed: int) -> list[tuple[int, int, int]]:
    """The prompts of a step: (index, way, seed of its draws) each. Kinds take turns, and within a kind every prompt has
    its turn before one comes again, in an order drawn anew each time."""
    kinds = [kind for kind in KINDS if any(p.kind == kind for p in prompts)]
    own = {kind: [i for i, p in enumerate(prompts) if p.kind == kind] for kind in kinds}
    share = {kind: kinds.count(kind) for kind in kinds}
    out = []
    for at in range(step * count, (step + 1) * count):
        whole, place = divmod(at, len(kinds))
        kind = kinds[place]
        turn = whole * share[kind] + kinds[:place].count(kind)
        again, position = divmod(turn, len(own[kind]))
        order = np.random.default_rng([seed, 90, KINDS.index(kind), again]).permutation(len(own[kind]))
        index = own[kind][int(order[position])]
        rng = np.random.default_rng([seed, 91, at])
        out.append((index, int(rng.integers(len(prompts[index].ways))), int(rng.integers(2**40)) * 64))
    return out


def spread_over_kinds(prompts: Sequence[PracticePrompt], count: int) -> list[PracticePrompt]:
    """`count` of them, kinds in turn, as they come: what is validated on."""
    own = {kind: [p for p in prompts if p.kind == kind] for kind in dict.fromkeys(KINDS)}
    out: list[PracticePrompt] = []
    for kind in islice(cycle(own), count * len(own)):
        if own[kind] and len(out) < count:
            out.append(own[kind].pop(0))
    return out
