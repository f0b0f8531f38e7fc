"""The tree: nodes that hold a few tokens each, which to expand next, and what values below a node say of it.

No model here. Values are any finite numbers, higher is better, compared after rescaling to [0, 1] over the whole tree.
A node of value -inf is dead: it cannot become good, counts as 0 for its ancestors, and is never expanded. A complete
thought counts as 0, too: it is found, and the next good one lies elsewhere. Draws at a node are without replacement, so
that the tree knows of each node how much of the probability below it is closed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thoughtmix.core.types import FinishReason
    from thoughtmix.engine import Prefix

DEAD = -math.inf
NEGLIGIBLE = 1e-4  # a probability below which nothing is left to draw


def exploration_bonus(exploration: float, visits: float, prior: float, child_visits: float) -> float:
    """What PUCT adds to a child's mean value: c sqrt(N) P / (1 + n) (Silver et al. 2017, "Mastering the game of Go
    without human knowledge", methods), with the parent's `visits` N, and the child's `prior` P and `child_visits` n."""
    return exploration * visits**0.5 * prior / (1 + child_visits)


def rescaled(value: float, low: float, high: float) -> float:
    """A value to [0, 1] between the least and the largest seen (Schrittwieser et al. 2020, MuZero, eq. 5); 0.5 where
    all are equal."""
    return (value - low) / (high - low) if high > low else 0.5


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
    """The score of each evaluator."""
    children: list[Node] = field(default_factory=list)
    prefix: Prefix | None = None
    """Keys and values of all that was read here; None: it has to be read (again)."""
    expansions: int = 0
    """In how many rounds children were drawn here."""
    drawn: int = 0
    """How many children were drawn, copies too."""
    penalties: int = 0
    """How many of them were copies of children that are complete or dead: nothing came of it."""
    value_sum: float = 0.0
    value_count: int = 0
    """Sum and number of the values of this node and those below that can go on."""
    losses: int = 0
    """The number of dead nodes, complete ones and penalties here and below: each counts as 0."""
    virtual_losses: int = 0
    """Leaves below that the running round has selected: each is a loss until its value is known."""
    virtual_expansions: int = 0
    """Of these, the ones that are children to be drawn here."""
    closed: float = 0.0
    """The probability of all that is complete or dead below here."""

    @property
    def visits(self) -> int:
        """N of this node: values and losses, virtual ones left out."""
        return self.value_count + self.losses

    @property
    def open(self) -> bool:
        """Whether it can be expanded."""
        return self.finish is None and self.value != DEAD and self.left > NEGLIGIBLE

    @property
    def probability(self) -> float:
        """Of its tokens at its parent; 0: unknown."""
        return math.prod(self.shares) if self.shares else 0.0

    @property
    def left(self) -> float:
        """The probability of what can be drawn below here and is not closed yet."""
        return max(1.0 - self.closed, 0.0)

    @property
    def undrawn(self) -> float:
        """The probability that a draw here would be no child of it."""
        return max(1.0 - sum(child.probability for child in self.children), 0.0)

    @property
    def lineage(self) -> list[Node]:
        """From the root to here."""
        node: Node | None = self
        out: list[Node] = []
        while node is not None:
            out.append(node)
            node = node.parent
        return out[::-1]

    @property
    def beginning(self) -> Node:
        """The first node on the way here, where it parted from the others: a child of the root."""
        lineage = self.lineage
        return lineage[min(1, len(lineage) - 1)]

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
        """Of `tokens`, in nats."""
        return [value for node in self.lineage for value in node.logprobs]


class Tree:
    """Nodes, and the arithmetic of a search over them: select, add children, backpropagate.

    Args:
        seed: Of the whole tree.
        exploration: The constant of PUCT.
        urgency: A child that was not drawn yet is expected to be as good as its parent's mean less this, of 1
            (first-play urgency, as Leela Chess Zero reduces it).
    """

    def __init__(self, seed: int = 0, exploration: float = 0.5, urgency: float = 0.0) -> None:
        self.seed, self.exploration, self.urgency = seed, exploration, urgency
        self.root = Node(0)
        self.nodes = [self.root]
        self.low, self.high = math.inf, -math.inf  # of all finite values

    def __len__(self) -> int:
        return len(self.nodes)

    def mean(self, node: Node) -> float:
        """Of the values of a node and those below, in [0, 1]; losses, virtual ones too, count as 0."""
        if not node.value_count:
            return 0.0
        value = rescaled(node.value_sum / node.value_count, self.low, self.high)
        return value * node.value_count / (node.visits + node.virtual_losses)

    def puct(self, node: Node) -> dict[Node | None, float]:
        """PUCT of each open child, and, under None, of drawing new ones, where there may be any.

        The prior of a child is its share of the draws, which stands for the proposal where draws hardly repeat (Hubert
        et al. 2021, Sampled MuZero, section 3); or its probability, where that is more: draws do not repeat here, or
        what is nearly certain would be most of them. What is new counts as one draw, or by the probability that is left
        to it, where that is less. A child counts by what is left below it."""
        children = [c for c in node.children if c.open]
        draws = 1 + sum(c.copies for c in children)
        priors: dict[Node | None, float] = {c: max(c.probability, c.copies / draws) * c.left for c in children}
        if node.undrawn > NEGLIGIBLE or not children:
            priors[None] = min(node.undrawn, 1 / draws)
        total, visits = max(sum(priors.values()), NEGLIGIBLE), node.visits + node.virtual_losses
        out: dict[Node | None, float] = {}
        for child, prior in priors.items():
            if child is None:
                mean = max(self.mean(node) - self.urgency, 0.0) if node.visits else 0.5
                child_visits = node.expansions + node.virtual_expansions
            else:
                mean, child_visits = self.mean(child), child.visits + child.virtual_losses
            out[child] = mean + exploration_bonus(self.exploration, visits, prior / total, child_visits)
        return out

    def select(self) -> Node | None:
        """The node to draw children at, with virtual losses on the way there; None when all is complete or dead. Ties
        go to the older child, and to children before new ones."""
        if not self.root.open:
            return None
        node = self.root
        while True:
            puct = self.puct(node)  # what is new comes last: of equals the older child
            best = max(puct, key=lambda child: puct[child])
            if best is None:
                break
            node = best
        node.virtual_expansions += 1
        for ancestor in node.lineage:
            ancestor.virtual_losses += 1
        return node

    def clear_virtual_losses(self) -> None:
        """Take back what `select` counted."""
        for node in self.nodes:
            node.virtual_losses = node.virtual_expansions = 0

    def add_child(self, node: Node) -> None:
        """Make a node with a parent the last of its children; its value comes with `backpropagate`."""
        assert node.parent is not None
        node.index = len(self.nodes)
        node.parent.children.append(node)
        self.nodes.append(node)

    def backpropagate(self, node: Node, value: float) -> None:
        """Give a node its value and count it at all its ancestors. To them a complete thought counts as nothing, like a
        dead one: it is found, and what they can still lead to is another."""
        node.value = value
        if value != DEAD:
            self.low, self.high = min(self.low, value), max(self.high, value)
        lost = value == DEAD or node.finish is not None
        closed = float(lost)
        for ancestor in reversed(node.lineage):
            ancestor.closed += closed
            closed *= ancestor.probability
            if lost:
                ancestor.losses += 1
            else:
                ancestor.value_sum += value
                ancestor.value_count += 1

    def penalise(self, node: Node, times: int = 1) -> None:
        """Draws at a node of which nothing new came: each counts as 0, or the search would draw there for ever."""
        node.penalties += times
        for ancestor in node.lineage:
            ancestor.losses += times

    def child_seed(self, parent: Node, place: int) -> int:
        """The random stream of a child: its own, by the tree's seed and its path."""
        key = repr((self.seed, *parent.path, place)).encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1

    def complete(self) -> list[Node]:
        """Thoughts that have ended and are not dead, oldest first."""
        return [node for node in self.nodes if node.finish is not None and node.value != DEAD]

    def leaves(self) -> Iterator[Node]:
        """Open nodes without open children, oldest first."""
        return (node for node in self.nodes if node.open and not any(c.open for c in node.children))
