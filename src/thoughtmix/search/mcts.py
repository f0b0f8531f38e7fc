"""The search: a round selects leaves by PUCT, expands all of them in one batch, evaluates the children and
backpropagates their values (Monte Carlo tree search).

A round is whole or not at all, and the limits only say when to stop: a search that was stopped and resumed has drawn
what one uninterrupted search draws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtmix.core.selection import each_origin_first, select_diverse
from thoughtmix.engine.engine import Generation, LocalModelEngine, SequenceOutput
from thoughtmix.engine.local import LocalEngine
from thoughtmix.search.evaluators import Distance, Evaluators, Leaf, word_distance
from thoughtmix.search.proposals import Proposal, SamplingProposal
from thoughtmix.search.settings import Limits, Settings, Spent
from thoughtmix.search.tree import DEAD, Node, Tree
from thoughtmix.search.writers import TokenWriter, Writer

if TYPE_CHECKING:
    from thoughtmix.core.request import StepEvent
    from thoughtmix.engine import Prefix
    from thoughtmix.models import LanguageModel


Late = Callable[["StepEvent"], bool]


class TreeSearch:
    """One tree. `explore` as often and as long as you like, `finish` whenever an answer is wanted.

    Args:
        model: A model, the engine that decodes, or a `Writer`.
        prompt_ids: Token ids of the prompt, ending where the answer begins; a `Writer` knows its prompt.
        settings: What the tree depends on.
        evaluators: What values a thought so far; the default is its likelihood.
        proposal: What draws; the default is plain sampling.
        seed: Of the whole tree.
        prompt: What evaluators are told was asked; None: the text of `prompt_ids`.
        distance: How far texts lie apart, for completing different leaves.
    """

    def __init__(
        self,
        model: LanguageModel | LocalModelEngine | Writer,
        prompt_ids: Sequence[int] = (),
        settings: Settings | None = None,
        evaluators: Evaluators | None = None,
        proposal: Proposal | None = None,
        *,
        seed: int = 0,
        prompt: str | None = None,
        distance: Distance = word_distance,
    ) -> None:
        self.settings, self.evaluators = settings or Settings(), evaluators or Evaluators()
        self.proposal: Proposal = SamplingProposal() if proposal is None else proposal
        if isinstance(model, Writer):
            self.writer = model
        else:
            engine = model if isinstance(model, LocalModelEngine) else LocalEngine(model)
            self.writer = TokenWriter(engine, prompt_ids, self.proposal)
        self.prompt = self.writer.prompt if prompt is None else prompt
        self.distance = distance
        self.tree = Tree(seed, self.settings.exploration, self.settings.urgency)
        self.spent = Spent()
        self.ended: list[Node] = []
        """Open leaves that `finish` completed: not of the tree."""
        self.interrupted = False
        self.decoding_path = ""
        self._longest_round = 0.0
        self._ends = math.inf  # perf_counter time after which nothing is drawn
        self._out_of_time = False

    def explore(self, limits: Limits, want: int = 1, on_round: Callable[[TreeSearch], None] | None = None) -> None:
        """Whole rounds until a limit, keeping enough back to complete `want` thoughts. The round that runs is dropped
        by Ctrl-C, which sets `interrupted`, and where the time left would not do to complete thoughts after it."""
        began, before = time.perf_counter(), self.spent.seconds
        self._ends = math.inf if limits.seconds is None else began + limits.seconds
        while not self.interrupted:
            round_began = time.perf_counter()
            leaves = self._select()
            late = limits.seconds is not None and round_began - began + self._seconds_needed() > limits.seconds
            tokens = self.spent.drawn + self._most_tokens(leaves) + self._missing(want) * self.settings.length
            if not leaves or late or tokens > limits.tokens:
                self.tree.clear_virtual_losses()
                break
            if not self._round(leaves, want):
                break
            self.spent.seconds = before + time.perf_counter() - began
            self._longest_round = max(self._longest_round, time.perf_counter() - round_began)
            if on_round is not None and not self.interrupted:
                try:
                    on_round(self)
                except KeyboardInterrupt:
                    self.interrupted = True
        self.spent.seconds = before + time.perf_counter() - began

    def finish(self, limits: Limits, want: int) -> None:
        """Complete good and different open leaves until there are `want` thoughts, as far as the budget goes; what is
        not complete when the seconds of `explore` are over ends where it stands. Not for an interrupted search."""
        self.ended = []
        missing = self._missing(want)
        if not missing or self.interrupted:
            return
        began = time.perf_counter()
        complete = self.tree.complete()
        leaves = select_different(list(self.tree.leaves()), missing, self.distance, 0.5, beside=complete)
        if not leaves and complete:  # nothing is left to go on with
            return
        leaves = leaves or [self.tree.root]  # all is dead: there is an answer, if a wrong one
        each = max((limits.tokens - self.spent.drawn) // missing, 1)
        draws = [(leaves[i % len(leaves)], -1 - i // len(leaves)) for i in range(missing)]
        most = [min(each, self._room(leaf)) for leaf, _ in draws]
        done = self._generate(draws, most, to_the_end=True, late=lambda _: time.perf_counter() > self._ends)
        ends = zip(draws, done.outputs, strict=True)
        self.ended = [self._node(leaf, place, row, last=True) for (leaf, place), row in ends if not row.error]
        self.spent.drawn += _drawn_tokens(done)
        for node, (value, scores) in zip(self.ended, self._evaluate(self.ended), strict=True):
            node.value, node.scores = value, scores
        self.interrupted = done.interrupted and time.perf_counter() <= self._ends
        self.spent.seconds += time.perf_counter() - began

    @property
    def facts(self) -> dict[str, Any]:
        """How it went, as JSON."""
        s, nodes = self.spent, self.tree.nodes
        return {
            "path": self.decoding_path,
            "tokens": s.drawn,
            "computed": s.computed,
            "rounds": s.rounds,
            "nodes": len(nodes),
            "complete": len(self.tree.complete()),
            "dead": sum(node.value == DEAD for node in nodes),
            "seconds": round(s.seconds, 4),
            "model_seconds": round(s.model_seconds, 4),
            "judging_seconds": round(s.judging_seconds, 4),
            "tokens_per_second": round(s.drawn / s.seconds, 1) if s.seconds else 0.0,
            "evaluators": self.evaluators.weights,
            "proposal": self.proposal.settings(),
            **self.writer.facts,
        }

    # --- what limits are compared with ----------------------------------------------------------------------

    def _room(self, node: Node) -> int:
        """Tokens that a thought may still get."""
        return self.settings.length - len(node.tokens)

    def _missing(self, want: int) -> int:
        """Thoughts that are not complete yet."""
        return max(want - len({node.text.strip() for node in self.tree.complete()}), 0)

    def _most_tokens(self, leaves: list[Node]) -> int:
        """The most tokens that a round can draw."""
        s = self.settings
        return sum(s.width * (self._room(x) if s.rollouts else min(s.step, self._room(x))) for x in leaves)

    def _seconds_needed(self) -> float:
        """Seconds that one more round and `finish` may take."""
        a_step = self.spent.model_seconds / max(self.spent.steps, 1)
        return self._longest_round + a_step * self.settings.length

    # --- one round ------------------------------------------------------------------------------------------

    def _round(self, leaves: list[Node], want: int) -> bool:
        """Expand, evaluate, and only then touch the tree, so that a round that is stopped leaves no trace. Whether it
        was done."""
        values: list[tuple[float, dict[str, float]]] = []
        self._out_of_time = False
        try:
            expansion = self._expand(leaves, self._late(want))
            if expansion is not None:
                values = self._evaluate(expansion.to_evaluate)
        except KeyboardInterrupt:
            expansion = None
        self.tree.clear_virtual_losses()
        if expansion is None:
            self.interrupted = not self._out_of_time
            return False
        for leaf in leaves:
            leaf.expansions += 1
            leaf.drawn += self.settings.width
            leaf.prefix = leaf.prefix or expansion.prefixes.get(leaf)
        for child in expansion.children:
            self.tree.add_child(child)
            if child in expansion.rollouts:
                child.drawn += 1
                self.tree.add_child(expansion.rollouts[child])
        for node, (value, scores) in zip(expansion.to_evaluate, values, strict=True):
            node.scores = scores
            self.tree.backpropagate(node, value)
            if not node.open:
                node.prefix = None
        for node in expansion.copied:
            node.copies += 1
            if not node.open and node.parent is not None:
                self.tree.penalise(node.parent)
        self.spent.drawn += expansion.tokens
        self.spent.rounds += 1
        return True

    def _late(self, want: int) -> Late | None:
        """Says of a step of a round whether the time left is not enough to complete thoughts after it."""
        if math.isinf(self._ends):
            return None
        began, steps = time.perf_counter(), 0

        def late(_: StepEvent) -> bool:
            nonlocal steps
            now, steps = time.perf_counter(), steps + 1
            rest = 0.0
            # The first steps of all hold the prompt's reading, too: what they take says little. And where there is only
            # text, a step is whatever comes of a request, or nothing: what one takes is known when it has ended.
            if self.spent.steps or (steps > 2 and self.writer.prompt_ids):
                a_step = self.spent.model_seconds / self.spent.steps if self.spent.steps else (now - began) / steps
                rest = a_step * self.settings.length * (self._missing(want) > 0)
            self._out_of_time = now + rest > self._ends
            return self._out_of_time

        return late

    def _select(self) -> list[Node]:
        leaves = (self.tree.select() for _ in range(self.settings.batch))
        return [node for node in leaves if node is not None]

    def _expand(self, leaves: list[Node], late: Late | None) -> _Expansion | None:
        """Children of the leaves, the same tokens once, perhaps each with a rollout; None: interrupted, or late."""
        draws, places = [], {leaf: leaf.drawn for leaf in leaves}  # a leaf may be selected more than once
        for leaf in leaves:
            draws += [(leaf, places[leaf] + i) for i in range(self.settings.width)]
            places[leaf] += self.settings.width
        done = self._generate(draws, [min(self.settings.step, self._room(leaf)) for leaf, _ in draws], late=late)
        out = _Expansion(tokens=_drawn_tokens(done))
        known = {(leaf, child.token_ids): child for leaf in leaves for child in leaf.children}
        prefixes = done.prefixes or [None] * len(draws)
        for (leaf, place), row, prefix in zip(draws, done.outputs, prefixes, strict=True):
            if row.error:
                continue  # an endpoint failed
            if prefix is not None and prefix.keys is not None:
                out.prefixes.setdefault(leaf, prefix.parent if prefix.before and prefix.parent else prefix)
            child = self._node(leaf, place, row)
            first = known.setdefault((leaf, child.token_ids), child)
            if first is child:
                child.prefix = prefix
                out.children.append(child)
            else:
                out.copied.append(first)
        going = [child for child in out.children if child.finish is None]
        if self.settings.rollouts and going and not done.interrupted:
            room = [self._room(child) for child in going]
            done = self._generate([(child, 0) for child in going], room, to_the_end=True, late=late)
            out.tokens += _drawn_tokens(done)
            for child, row in zip(going, done.outputs, strict=True):
                if row.error:
                    continue
                out.rollouts[child] = self._node(child, 0, row, last=True)
        return None if done.interrupted else out

    def _generate(
        self, draws: list[tuple[Node, int]], most: list[int], to_the_end: bool = False, late: Late | None = None
    ) -> Generation:
        """One batch: a row for each (parent, place), of at most `most` tokens. to_the_end: up to a stop string, and
        nothing is kept of it; else none is drawn that a parent has already, where the engine can see to that. late:
        asked after each step, and now and then while an endpoint is silent, whether to stop, as by Ctrl-C."""

        def stop_if_late(event: StepEvent) -> None:
            if late is not None and late(event):
                raise KeyboardInterrupt

        began = time.perf_counter()
        seeds = [self.tree.child_seed(node, place) for node, place in draws]
        on_step = None if late is None else stop_if_late
        nodes = [node for node, _ in draws]
        done = self.writer.write(nodes, seeds, most, self.settings.stop, to_the_end, on_step)
        self.decoding_path = done.path
        self.spent.computed += done.computed
        self.spent.steps += max(len(row.token_ids) for row in done.outputs)
        self.spent.model_seconds += time.perf_counter() - began
        return done

    def _node(self, parent: Node, place: int, row: SequenceOutput, last: bool = False) -> Node:
        """What a row drew, with its text, and whether it is complete: by its end, a stop string, or its length. Not of
        the tree yet. last: a thought ends here, whatever it lacks."""
        node = Node(-1, parent, place, 1, tuple(row.token_ids), tuple(row.logprobs), tuple(row.shares), row.finish)
        text, ended = self.writer.read(node, row)
        cuts = [at for s in self.settings.stop if (at := text.find(s)) >= 0]
        if cuts:
            node.text, node.finish = text[: min(cuts)], "stop"
        elif ended:
            node.text = text
        else:
            node.text = text.rstrip("\N{REPLACEMENT CHARACTER}")
            node.finish = "length" if last or len(node.tokens) >= self.settings.length else None
        return node

    def _evaluate(self, nodes: list[Node]) -> list[tuple[float, dict[str, float]]]:
        began = time.perf_counter()
        leaves = [
            Leaf(node.text, tuple(node.tokens), tuple(node.token_logprobs), node.finish is not None) for node in nodes
        ]
        found = [node.text for node in self.tree.complete()]
        out = self.evaluators.evaluate(self.prompt, leaves, found) if leaves else []
        self.spent.judging_seconds += time.perf_counter() - began
        return out


@dataclass
class _Expansion:
    """What a round drew, before it is added to the tree."""

    tokens: int
    children: list[Node] = field(default_factory=list)
    rollouts: dict[Node, Node] = field(default_factory=dict)
    """Of a child that was continued to the end, the rest."""
    copied: list[Node] = field(default_factory=list)
    """Children, old or new, that were drawn again."""
    prefixes: dict[Node, Prefix] = field(default_factory=dict)
    """Of a leaf's whole text."""

    @property
    def to_evaluate(self) -> list[Node]:
        """The children; one with a rollout is valued by that."""
        return [self.rollouts.get(child, child) for child in self.children]


def select_different(
    nodes: Sequence[Node],
    k: int,
    distance: Distance,
    quality_weight: float = 1.0,
    beside: Sequence[Node] = (),
) -> list[Node]:
    """Up to k nodes, good ones that lie far apart first, and one of each beginning before a second of any: a search for
    what is likely grows most of its leaves under one ("Let's think outside the box"). beside: Nodes whose beginnings
    are there already."""
    k = min(k, len(nodes))
    if k < 1:
        return []
    values = [node.value for node in nodes]
    least = min((v for v in values if v != DEAD), default=0.0)
    values = [least - 1 if v == DEAD else v for v in values]
    ranked = np.argsort([-v for v in values], kind="stable").tolist()
    firsts = {nodes[i].beginning: i for i in reversed(ranked)}  # the best of each beginning, and of those the better
    firsts_too = sorted(firsts.values(), key=ranked.index)[: 2 * k]
    best = list(dict.fromkeys([*ranked[: max(8 * k, 64)], *firsts_too]))  # all would cost n^2
    distances = distance([nodes[i].text for i in best]).tolist()
    order = select_diverse(distances, [values[i] for i in best], len(best), quality_weight)
    order = each_origin_first(order, [nodes[i].beginning for i in best], [node.beginning for node in beside])
    return [nodes[best[i]] for i in order[:k]]


def _drawn_tokens(done: Generation) -> int:
    """As the server counts them, where it does: reasoning is drawn, too."""
    return int(done.extra.get("tokens") or sum(len(row.token_ids) for row in done.outputs))
