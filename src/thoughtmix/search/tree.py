"""The tree: nodes that hold a few tokens each, which to grow next, and what values below a node say of it.

No model here. Values are any finite numbers, higher is better, compared after rescaling to [0, 1] over the whole tree;
a node of value -inf is dead: it cannot become good, counts as 0 for its ancestors, and is never grown. A complete
thought counts as 0, too: it is found, and the next good one lies elsewhere. Draws at a node are without repetition, so
that the tree knows of each node which share of what the proposal could draw below it is closed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thoughtmix.search.puct import bonus, rescaled

if TYPE_CHECKING:
    from thoughtmix.core.types import FinishReason
    from thoughtmix.engine import Prefix

DEAD = -math.inf
NOTHING = 1e-4  # a share below which nothing is left to draw


@dataclass(slots=True, eq=False)
class Node:
    """Some tokens after the parent's. The root has none: it is the prompt."""

    index: int
    parent: Node | None = None
    place: int = 0
    """Which draw at its parent it was, the first time."""
    copies: int = 1
    """How often the same tokens were drawn there."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    """The probability that each token had in the draw; (): unknown, of no weight."""
    finish: FinishReason | None = None
    """Why a complete thought ended; None while it can go on."""
    text: str = ""
    """Of the whole thought so far."""
    value: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    """What each evaluator said."""
    children: list[Node] = field(default_factory=list)
    prefix: Prefix | None = None
    """Keys and values of all that was read here; None: it has to be read (again)."""
    draws: int = 0
    """In how many rounds children were drawn here."""
    drawn: int = 0
    """How many, copies too."""
    wasted: int = 0
    """How many of them were copies of children that are complete or dead: nothing came of it."""
    total: float = 0.0
    finite: int = 0
    dead: int = 0
    """Sum and number of the values of this node and those below that can go on, and the number of dead ones, complete
    ones and wasted draws."""
    pending: int = 0
    """Leaves below that the running round has chosen: each is a loss until its value is known (virtual loss)."""
    drawing: int = 0
    """Of these, the ones that are children to be drawn here."""
    gone: float = 0.0
    """The share of all that could be drawn below here that is complete or dead."""

    @property
    def visits(self) -> int:
        return self.finite + self.dead

    @property
    def open(self) -> bool:
        """Whether it can be grown."""
        return self.finish is None and self.value != DEAD and self.left > NOTHING

    @property
    def share(self) -> float:
        """The probability of its tokens at its parent; 0: unknown."""
        return math.prod(self.shares) if self.shares else 0.0

    @property
    def left(self) -> float:
        """The share of what can be drawn below here that is not closed yet."""
        return max(1.0 - self.gone, 0.0)

    @property
    def fresh(self) -> float:
        """The share of the draws here that would be no child of it."""
        return max(1.0 - sum(child.share for child in self.children), 0.0)

    @property
    def lineage(self) -> list[Node]:
        """From the root to here."""
        at: Node | None = self
        out: list[Node] = []
        while at is not None:
            out.append(at)
            at = at.parent
        return out[::-1]

    @property
    def path(self) -> tuple[int, ...]:
        """The places of the nodes that lead here."""
        return tuple(node.place for node in self.lineage[1:])

    @property
    def tokens(self) -> list[int]:
        """Of the whole thought so far, without the prompt."""
        return [token for node in self.lineage for token in node.token_ids]

    @property
    def token_logprobs(self) -> list[float]:
        return [value for node in self.lineage for value in node.logprobs]


class Tree:
    """seed: of the whole tree. exploration: the constant of PUCT. urgency: a child that was not drawn yet is expected
    to be as good as its parent's mean less this, of 1 (first-play urgency, as Leela Chess Zero reduces it)."""

    def __init__(self, seed: int = 0, exploration: float = 0.5, urgency: float = 0.0) -> None:
        self.seed, self.exploration, self.urgency = seed, exploration, urgency
        self.root = Node(0)
        self.nodes = [self.root]
        self.low, self.high = math.inf, -math.inf  # of all finite values

    def __len__(self) -> int:
        return len(self.nodes)

    def mean(self, node: Node) -> float:
        """In [0, 1]: of the values of a node and those below, leaves that are being drawn counted as 0."""
        known = node.finite * 0.5
        if self.high > self.low:
            known = (node.total - node.finite * self.low) / (self.high - self.low)
        return known / max(node.visits + node.pending, 1)

    def rescaled(self, value: float) -> float:
        """In [0, 1]; dead ones 0."""
        return 0.0 if value == DEAD else rescaled(value, self.low, self.high)

    def priorities(self, node: Node) -> dict[Node | None, float]:
        """PUCT of each open child, and, None, of drawing new ones, where there may be any.

        The prior of a child is its share of the draws, which stands for the proposal where draws hardly repeat (Hubert
        et al. 2021, Sampled MuZero, section 3); or its probability, where that is more: draws do not repeat here, or
        what is nearly certain would be most of them. What is new counts as one draw, or by the probability that is left
        to it, where that is less. A child counts by what is left below it."""
        among = [c for c in node.children if c.open]
        draws = 1 + sum(c.copies for c in among)
        weights: dict[Node | None, float] = {c: max(c.share, c.copies / draws) * c.left for c in among}
        if node.fresh > NOTHING or not among:
            weights[None] = min(node.fresh, 1 / draws)
        total, visits = max(sum(weights.values()), NOTHING), node.visits + node.pending
        out: dict[Node | None, float] = {}
        for child, weight in weights.items():
            if child is None:
                value = max(self.mean(node) - self.urgency, 0.0) if node.visits else 0.5
                played = node.draws + node.drawing
            else:
                value, played = self.mean(child), child.visits + child.pending
            out[child] = value + bonus(self.exploration, visits, weight / total, played)
        return out

    def pick(self) -> Node | None:
        """The node to draw children at, with virtual losses on the way there; None when all is complete or dead. Ties
        go to the older child, and to children before new ones."""
        if not self.root.open:
            return None
        at = self.root
        while True:
            options = self.priorities(at)  # what is new comes last: of equals the older child
            best = max(options, key=lambda c: options[c])
            if best is None:
                break
            at = best
        at.drawing += 1
        for node in at.lineage:
            node.pending += 1
        return at

    def settle(self) -> None:
        """Take all virtual losses back."""
        for node in self.nodes:
            node.pending = node.drawing = 0

    def hang(self, node: Node) -> None:
        """Make a node with a parent the last of its children, to be `judged` next."""
        assert node.parent is not None
        node.index = len(self.nodes)
        node.parent.children.append(node)
        self.nodes.append(node)

    def judged(self, node: Node, value: float) -> None:
        """Give a node its value and tell its ancestors. To them a complete thought counts as nothing, like a dead one:
        it is found, and what they can still lead to is another."""
        node.value = value
        if value != DEAD:
            self.low, self.high = min(self.low, value), max(self.high, value)
        closed = value == DEAD or node.finish is not None
        gone = float(closed)
        for at in reversed(node.lineage):
            at.gone += gone
            gone *= at.share
            if closed:
                at.dead += 1
            else:
                at.total, at.finite = at.total + value, at.finite + 1

    def waste(self, node: Node, times: int = 1) -> None:
        """Draws at a node of which nothing new came: each counts as 0, or the search would draw there for ever."""
        node.wasted += times
        for at in node.lineage:
            at.dead += times

    def seed_of(self, parent: Node, place: int) -> int:
        """The random stream of a child: its own, by the tree's seed and its path."""
        said = repr((self.seed, *parent.path, place)).encode()
        return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest()) >> 1

    def complete(self) -> list[Node]:
        """Thoughts that have ended and are not dead, oldest first."""
        return [node for node in self.nodes if node.finish is not None and node.value != DEAD]

    def leaves(self) -> Iterator[Node]:
        """Open nodes without open children, oldest first."""
        return (node for node in self.nodes if node.open and not any(c.open for c in node.children))
