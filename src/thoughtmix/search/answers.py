"""Out of a searched tree, a set: good leaves that differ."""

from __future__ import annotations

from thoughtmix.core.stock import is_stock_phrase
from thoughtmix.search.evaluators import Distance, word_distance
from thoughtmix.search.mcts import TreeSearch, select_different
from thoughtmix.search.tree import DEAD, Node


def answers(
    search: TreeSearch, want: int, distance: Distance = word_distance, quality_weight: float = 1.0
) -> list[Node]:
    """`want` leaves: good ones that lie far apart first (`selection.select_diverse` on values and distances), one of
    each beginning before a second of any.

    Leaves that a verifier accepts come before all others, and complete ones before partial and dead ones; two texts
    with the same answer (the verifier's `answer`, else the text) count once, and so do all stock phrases ("I'm sorry
    for any confusion"). Only when there are too few different leaves do copies fill the places.
    """
    ranks: list[list[Node]] = [[], [], []]
    seen: set[str] = set()
    spare: list[Node] = []
    complete = sorted(_complete(search), key=lambda node: -node.value)  # of two with the same answer the better one
    partial = sorted(search.tree.leaves(), key=lambda node: -node.value)
    dead = [node for node in [*search.tree.nodes, *search.ended] if node.finish is not None and node.value == DEAD]
    for node in [*complete, *partial, *dead]:
        key = _key(search, node)
        if node.token_ids and key in seen:
            spare.append(node)
        elif node.token_ids:
            seen.add(key)
            done = node.finish is not None and node.value != DEAD
            ranks[2 if not done else 0 if _accepted(search, node) else 1].append(node)
    picked: list[Node] = []
    for rank in ranks:
        picked += select_different(rank, want - len(picked), distance, quality_weight, beside=picked)
    picked += spare[: want - len(picked)]
    return [picked[i % len(picked)] for i in range(want)] if picked else []


def valid(search: TreeSearch) -> set[str]:
    """The different answers among complete leaves that every verifier accepts."""
    return {_key(search, node) for node in _complete(search) if _accepted(search, node)}


def _complete(search: TreeSearch) -> list[Node]:
    return [*search.tree.complete(), *(node for node in search.ended if node.value != DEAD)]


def _accepted(search: TreeSearch, node: Node) -> bool:
    return all(verifier.accepts(node.text) for verifier in search.evaluators.verifiers)


def _key(search: TreeSearch, node: Node) -> str:
    for verifier in search.evaluators.verifiers:
        answer = verifier.answer(node.text) if verifier.answer is not None and node.finish is not None else None
        if answer is not None:
            return f"answer {answer}"
    return "stock phrase" if is_stock_phrase(node.text) else f"text {' '.join(node.text.split())}"
