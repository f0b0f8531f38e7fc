"""Growing the tree: a round chooses leaves by PUCT, draws children at all of them in one batch, and judges those.

A round is whole or not at all, and the limits only say when to stop: a search that was stopped and resumed has drawn
what one uninterrupted search draws.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.engine.engine import Generation, LocalModelEngine, SequenceOutput, SequenceRequest
from thoughtmix.engine.local import LocalEngine
from thoughtmix.engine.without_replacement import Excluded
from thoughtmix.search.answers import different
from thoughtmix.search.apart import Apart, words_apart
from thoughtmix.search.evaluators import Evaluators, Leaf
from thoughtmix.search.proposals import Proposal, SamplingProposal
from thoughtmix.search.tree import DEAD, Node, Tree

if TYPE_CHECKING:
    from thoughtmix.engine import Prefix
    from thoughtmix.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Settings:
    """What the tree depends on, beside prompt, seed, proposal and evaluators.

    length: longest thought, tokens. step: tokens of a node. width: children drawn at a leaf. batch: leaves a round.
    rollouts: judge a child by one continuation of it to the end (which is then a leaf of its own), not as it stands.
    exploration, urgency: see `Tree`. stop: strings that end a thought.
    """

    length: int = 64
    step: int = 8
    width: int = 4
    batch: int = 4
    rollouts: bool = False
    exploration: float = 0.5
    urgency: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("length", "step", "width", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass 1 or more ({name}=4).")
        if not 0 <= self.exploration < float("inf") or not 0 <= self.urgency <= 1:
            raise InputError(
                f"exploration is {self.exploration}, urgency {self.urgency}.",
                "Pass exploration 0 or more, and urgency from 0 to 1.",
            )


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop. tokens: drawn in all, the completion of open leaves included. seconds: of this run."""

    tokens: int = 2048
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.tokens < 1 or (self.seconds is not None and not self.seconds > 0):
            raise InputError(f"A budget of {self.tokens} tokens and {self.seconds} seconds.", "Pass more than 0.")


@dataclass(slots=True)
class Spent:
    """Tokens drawn; tokens that went through the model; rounds; seconds in the model, in evaluators, and in all."""

    drawn: int = 0
    computed: int = 0
    rounds: int = 0
    steps: int = 0
    model_seconds: float = 0.0
    judging_seconds: float = 0.0
    seconds: float = 0.0


class TreeSearch:
    """One tree. `explore` as often and as long as you like, `finish` whenever an answer is wanted.

    model: a model, or the engine that decodes. prompt: what evaluators are told was asked; None: the text of
    `prompt_ids`. apart: see `answers`.
    """

    def __init__(
        self,
        model: LanguageModel | LocalModelEngine,
        prompt_ids: Sequence[int],
        settings: Settings | None = None,
        evaluators: Evaluators | None = None,
        proposal: Proposal | None = None,
        *,
        seed: int = 0,
        prompt: str | None = None,
        apart: Apart = words_apart,
    ) -> None:
        self.engine = model if isinstance(model, LocalModelEngine) else LocalEngine(model)
        self.model, self.prompt_ids = self.engine.model, list(prompt_ids)
        self.settings, self.evaluators = settings or Settings(), evaluators or Evaluators()
        self.proposal: Proposal = SamplingProposal() if proposal is None else proposal
        self.prompt = self.model.decode(prompt_ids) if prompt is None else prompt
        self.apart = apart
        self.tree = Tree(seed, self.settings.exploration, self.settings.urgency)
        self.spent = Spent()
        self.ended: list[Node] = []  # open leaves that `finish` completed: not of the tree
        self.interrupted = False
        self.decoding_path = ""
        self._longest_round = 0.0

    def explore(self, limits: Limits, want: int = 1, on_round: Callable[[TreeSearch], None] | None = None) -> None:
        """Whole rounds until a limit, keeping enough back to complete `want` thoughts. Ctrl-C drops the round that runs
        and sets `interrupted`."""
        began = time.perf_counter()
        before = self.spent.seconds
        while not self.interrupted:
            at = time.perf_counter()
            chosen = self._choose()
            late = limits.seconds is not None and at - began + self._soon() > limits.seconds
            if not chosen or late or self.spent.drawn + self._cost(chosen) + self._reserve(want) > limits.tokens:
                self.tree.settle()
                break
            self._round(chosen)
            self.spent.seconds = before + time.perf_counter() - began
            self._longest_round = max(self._longest_round, time.perf_counter() - at)
            if on_round is not None and not self.interrupted:
                try:
                    on_round(self)
                except KeyboardInterrupt:
                    self.interrupted = True
        self.spent.seconds = before + time.perf_counter() - began

    def finish(self, limits: Limits, want: int) -> None:
        """Complete good and different open leaves until there are `want` thoughts, as far as the budget goes. Not for
        an interrupted search."""
        self.ended = []
        missing = want - len({node.text.strip() for node in self.tree.complete()})
        if missing < 1 or self.interrupted:
            return
        began = time.perf_counter()
        leaves = different(list(self.tree.leaves()), missing, self.apart, quality_weight=0.5)
        if not leaves and self.tree.complete():  # nothing is left to go on with
            return
        leaves = leaves or [self.tree.root]  # all is dead: there is an answer, if a wrong one
        each = max((limits.tokens - self.spent.drawn) // missing, 1)
        draws = [(leaves[i % len(leaves)], -1 - i // len(leaves)) for i in range(missing)]
        left = [min(each, self.settings.length - len(leaf.tokens)) for leaf, _ in draws]
        done = self._decode(draws, left, keep=False, stop=self.settings.stop)
        self.ended = [
            self._node(leaf, place, row, last=True) for (leaf, place), row in zip(draws, done.outputs, strict=True)
        ]
        self.spent.drawn += _count(done)
        for node, (value, said) in zip(self.ended, self._judge(self.ended), strict=True):
            node.value, node.scores = value, said
        self.interrupted = done.interrupted
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
        }

    # --- one round --------------------------------------------------------------------------------------

    def _choose(self) -> list[Node]:
        picks = (self.tree.pick() for _ in range(self.settings.batch))
        return [node for node in picks if node is not None]

    def _left(self, node: Node) -> int:
        """Tokens that a thought may still get."""
        return self.settings.length - len(node.tokens)

    def _cost(self, chosen: list[Node]) -> int:
        """The most tokens that a round can draw."""
        s = self.settings
        return sum(s.width * (self._left(x) if s.rollouts else min(s.step, self._left(x))) for x in chosen)

    def _reserve(self, want: int) -> int:
        """Tokens that completing the best open leaves may take."""
        missing = want - len({node.text.strip() for node in self.tree.complete()})
        return max(missing, 0) * self.settings.length

    def _soon(self) -> float:
        """Seconds that one more round and `finish` may take."""
        a_step = self.spent.model_seconds / max(self.spent.steps, 1)
        return self._longest_round + a_step * self.settings.length

    def _round(self, chosen: list[Node]) -> None:
        """Draw, judge, and only then touch the tree, so that a round that is stopped leaves no trace."""
        said: list[tuple[float, dict[str, float]]] = []
        try:
            drawn = self._draw(chosen)
            if drawn is not None:
                said = self._judge(drawn.judged)
        except KeyboardInterrupt:
            drawn = None
        self.tree.settle()
        if drawn is None:
            self.interrupted = True
            return
        for node in chosen:
            node.draws += 1
            node.drawn += self.settings.width
            node.prefix = node.prefix or drawn.read.get(id(node))
        for child in drawn.new:
            self.tree.hang(child)
            if child in drawn.ends:
                child.drawn += 1
                self.tree.hang(drawn.ends[child])
        for node, (value, scores) in zip(drawn.judged, said, strict=True):
            node.scores = scores
            self.tree.judged(node, value)
            if not node.open:
                node.prefix = None
        for node in drawn.copied:
            node.copies += 1
            if not node.open and node.parent is not None:
                self.tree.waste(node.parent)
        self.spent.drawn += drawn.tokens
        self.spent.rounds += 1

    def _draw(self, chosen: list[Node]) -> _Drawn | None:
        """Children of the chosen leaves, the same tokens once, perhaps each with a continuation; None: interrupted."""
        draws, taken = [], {id(node): node.drawn for node in chosen}
        for node in chosen:
            for _ in range(self.settings.width):
                draws.append((node, taken[id(node)]))
                taken[id(node)] += 1
        done = self._decode(draws, [min(self.settings.step, self._left(node)) for node, _ in draws], once=True)
        out = _Drawn(tokens=_count(done))
        known = {(id(c.parent), c.token_ids): c for node in chosen for c in node.children}
        for (parent, place), row, prefix in zip(draws, done.outputs, done.prefixes, strict=True):
            if prefix is not None and prefix.keys is not None:
                out.read.setdefault(id(parent), prefix.parent if prefix.before and prefix.parent else prefix)
            child = self._node(parent, place, row)
            same = known.setdefault((id(parent), child.token_ids), child)
            if same is child:
                child.prefix = prefix
                out.new.append(child)
            else:
                out.copied.append(same)
        going = [child for child in out.new if child.finish is None]
        if self.settings.rollouts and going and not done.interrupted:
            left = [self._left(child) for child in going]
            done = self._decode([(child, 0) for child in going], left, keep=False, stop=self.settings.stop)
            out.tokens += _count(done)
            for child, row in zip(going, done.outputs, strict=True):
                out.ends[child] = self._node(child, 0, row, last=True)
        out.judged = [out.ends.get(child, child) for child in out.new]  # a child with a rollout is judged by it
        return None if done.interrupted else out

    def _node(self, parent: Node, place: int, row: SequenceOutput, last: bool = False) -> Node:
        """What a row drew. Not of the tree yet. last: a thought ends here, whatever it lacks."""
        node = Node(-1, parent, place, 1, tuple(row.token_ids), tuple(row.logprobs), tuple(row.shares), row.finish)
        self._read(node)
        if last:
            node.finish = node.finish or "length"
        return node

    def _decode(
        self,
        draws: list[tuple[Node, int]],
        left: list[int],
        keep: bool = True,
        stop: tuple[str, ...] = (),
        once: bool = False,
    ) -> Generation:
        """One batch: a row for each (parent, place), of at most `left` tokens. once: none that a parent has already."""
        began = time.perf_counter()
        parents = list({id(node): node for node, _ in draws}.values())
        at = {id(node): i for i, node in enumerate(parents)}
        seeds = [self.tree.seed_of(node, place) for node, place in draws]
        prompts = [self.prompt_ids + node.tokens for node in parents]
        known = [_known(node, len(ids)) for node, ids in zip(parents, prompts, strict=True)]
        if any(len(ids) < 2 for ids in prompts):
            known = [None] * len(prompts)
        row_state = self.proposal.row_state(self.model, seeds)
        if all(node.parent is not None for node in parents) and row_state.unshared_suffix > 1:
            row_state.unshared_suffix = 1  # it is for a prompt's end: later, the last token is enough
        done = self.engine.generate(
            [
                SequenceRequest(
                    tuple(prompts[at[id(node)]]),
                    seed,
                    self.proposal.sampling,
                    most,
                    stop,
                    prefix=known[at[id(node)]],
                    exclude=_taken(node) if once else (),
                )
                for (node, _), seed, most in zip(draws, seeds, left, strict=True)
            ],
            row_state=row_state,
            keep_prefixes=keep,
            without_replacement=once,
        )
        self.decoding_path = done.path
        self.spent.computed += done.computed
        self.spent.steps += max(len(row.token_ids) for row in done.outputs)
        self.spent.model_seconds += time.perf_counter() - began
        return done

    def _read(self, node: Node) -> None:
        """The text of a new node, and whether it is complete: by its end, a stop string, or its length."""
        tokens = node.tokens
        ended = node.finish == "stop" and bool(tokens) and tokens[-1] in self.model.eos_ids
        text = self.model.decode(tokens[:-1] if ended else tokens)
        cuts = [at for s in self.settings.stop if (at := text.find(s)) >= 0]
        if cuts:
            node.text, node.finish = text[: min(cuts)], "stop"
            return
        node.text = text if ended else text.rstrip("\N{REPLACEMENT CHARACTER}")
        if not ended:
            node.finish = "length" if len(tokens) >= self.settings.length else None

    def _judge(self, nodes: list[Node]) -> list[tuple[float, dict[str, float]]]:
        began = time.perf_counter()
        leaves = [
            Leaf(node.text, tuple(node.tokens), tuple(node.token_logprobs), node.finish is not None) for node in nodes
        ]
        found = [node.text for node in self.tree.complete()]
        out = self.evaluators.judge(self.prompt, leaves, found) if leaves else []
        self.spent.judging_seconds += time.perf_counter() - began
        return out


@dataclass
class _Drawn:
    """A round before it is hung into the tree. read: by id of a leaf, the prefix of its whole text. ends: of a child
    that was continued to the end, the rest. copied: children, old or new, that were drawn again."""

    tokens: int
    new: list[Node] = field(default_factory=list)
    ends: dict[Node, Node] = field(default_factory=dict)
    judged: list[Node] = field(default_factory=list)
    copied: list[Node] = field(default_factory=list)
    read: dict[int, Prefix] = field(default_factory=dict)


def _count(done: Generation) -> int:
    return sum(len(row.token_ids) for row in done.outputs)


def _taken(node: Node) -> tuple[Excluded, ...]:
    """What is not to be drawn at a node again."""
    return tuple(Excluded(c.token_ids, c.shares) for c in node.children if c.shares)


def _known(node: Node, length: int) -> Prefix | None:
    """The longest beginning that was read, all but the last token at most: the node's own, or an ancestor's."""
    for at in reversed(node.lineage):
        if at.prefix is not None and at.prefix.keys is not None:
            return at.prefix.cut(min(at.prefix.length, length - 1)) if length > 1 else None
    return None
