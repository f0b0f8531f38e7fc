"""Out of a searched tree, a set: good leaves that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thoughtmix.core.selection import select_diverse
from thoughtmix.search.apart import Apart, words_apart
from thoughtmix.search.tree import DEAD, Node

if TYPE_CHECKING:
    from thoughtmix.search.grow import TreeSearch


def answers(search: TreeSearch, want: int, apart: Apart = words_apart, quality_weight: float = 1.0) -> list[Node]:
    """`want` leaves, good ones that lie far apart first (`selection.select_diverse` on values and distances).

    Leaves that a verifier accepts come before all others, and complete ones before partial and dead ones; two texts
    with the same answer (the verifier's `answer`, else the text) count once. Only when there are too few different
    leaves do copies fill the places.
    """
    ranks: list[list[Node]] = [[], [], []]
    seen: set[str] = set()
    spare: list[Node] = []
    verifiers = search.evaluators.verifiers
    complete = [*search.tree.complete(), *(node for node in search.ended if node.value != DEAD)]
    complete.sort(key=lambda node: -node.value)  # of two with the same answer the better one
    partial = sorted(search.tree.leaves(), key=lambda node: -search.tree.rescaled(node.value))
    lost = [node for node in [*search.tree.nodes, *search.ended] if node.finish is not None and node.value == DEAD]
    for node in [*complete, *partial, *lost]:
        key = _key(search, node)
        if node.token_ids and key in seen:
            spare.append(node)
        elif node.token_ids:
            seen.add(key)
            right = node.finish is not None and node.value != DEAD and all(v.accepts(node.text) for v in verifiers)
            ranks[0 if right else 1 if node in complete else 2].append(node)
    picked: list[Node] = []
    for rank in ranks:
        picked += different(rank, want - len(picked), apart, quality_weight)
    picked += spare[: want - len(picked)]
    return [picked[i % len(picked)] for i in range(want)] if picked else []


def valid(search: TreeSearch) -> set[str]:
    """The different answers among complete leaves that every verifier accepts."""
    nodes = [node for node in [*search.tree.complete(), *search.ended] if node.value != DEAD]
    return {_key(search, x) for x in nodes if all(v.accepts(x.text) for v in search.evaluators.verifiers)}


def _key(search: TreeSearch, node: Node) -> str:
    for verifier in search.evaluators.verifiers:
        said = verifier.answer(node.text) if verifier.answer is not None and node.finish is not None else None
        if said is not None:
            return f"answer {said}"
    return f"text {' '.join(node.text.split())}"


def different(nodes: Sequence[Node], k: int, apart: Apart, quality_weight: float = 1.0) -> list[Node]:
    """Up to k nodes, good ones that lie far apart first."""
    k = min(k, len(nodes))
    if k < 1:
        return []
    values = [node.value for node in nodes]
    least = min((v for v in values if v != DEAD), default=0.0)
    values = [least - 1 if v == DEAD else v for v in values]
    pool = np.argsort([-v for v in values], kind="stable")[: max(8 * k, 64)].tolist()  # the best: the rest cost n^2
    distances = apart([nodes[i].text for i in pool])
    return [nodes[pool[i]] for i in select_diverse(distances.tolist(), [values[i] for i in pool], k, quality_weight)]
