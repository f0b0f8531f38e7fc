"""Hybrid search: a tree search over early denoising decisions picks directions, diffusion refines each to the end.

A beam over the same decisions is `branching` with select="best": every branch is judged, the `keep` best go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.sampler import Meter, Plan, predict, step
from thoughtmix.diffusion.scores import Sight, checked, score_of
from thoughtmix.diffusion.walk import Watch, advance
from thoughtmix.search.puct import bonus, rescaled


@dataclass(frozen=True)
class Search:
    """levels: shares of the text decided at which the tree has its nodes, one depth each. children: of a node, all from
    one forward pass, so that they differ in which positions are decided first and how. expansions: of each tree.
    branches: directions that are refined to the end. exploration: the constant of PUCT; it matters more than the
    number of expansions. score: as in `Branching`."""

    levels: tuple[float, ...] = (0.08, 0.2, 0.4)
    children: int = 3
    expansions: int = 8
    branches: int = 4
    exploration: float = 1.0
    score: str | Callable[[Sequence[str]], Any] = "fill"

    def __post_init__(self) -> None:
        if not self.levels or any(not 0 < x < 1 for x in self.levels) or list(self.levels) != sorted(set(self.levels)):
            raise InputError(f"levels are {self.levels}.", "Pass rising shares between 0 and 1.")
        if min(self.children, self.expansions, self.branches) < 1 or self.exploration < 0:
            raise InputError("children, expansions and branches are 1 or more, exploration 0 or more.", "Raise them.")
        score_of(self.score)


@dataclass
class _Node:
    """A row of the arena. value: its score there; total, visits: of scores of nodes below it and its own."""

    row: int
    depth: int
    parent: int | None
    value: float = 0.0
    total: float = 0.0
    visits: int = 0
    children: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """Finished rows, `branches` a tree, side by side, best first by the score that searched (scores); nodes: of all
    trees; passes: row-passes spent on the tree and on refining."""

    canvas: Canvas
    scores: Tensor
    group: int
    nodes: int
    explored: int
    meter: Meter

    def best(self) -> list[int]:
        """The first row of each tree."""
        return list(range(0, len(self.canvas), self.group))


def search(
    model: DiffusionModel,
    canvas: Canvas,
    how: Search | None = None,
    plan: Plan | None = None,
    meter: Meter | None = None,
) -> Found:
    """One tree a row of `canvas`, all grown in step, so that an expansion is one batch. Values of a depth are compared
    with others of that depth only: they are rescaled to [0, 1] among the tree's nodes there (as in MuZero)."""
    how, plan, meter = how or Search(), plan or Plan(Random(), steps=64), meter or Meter()
    forest = _Forest(model, canvas, how, plan, meter)
    for _ in range(how.expansions):
        if not forest.expand():
            break
    explored = meter.row_passes
    rows = forest.directions()
    done = forest.arena.pick(rows)
    watch = forest.watch.pick(rows)
    done = advance(model.denoiser, done, plan, 1.0, watch, meter)
    scores = checked(forest.score(Sight(model, done, watch))).view(len(canvas), -1)
    order = scores.argsort(dim=1, descending=True, stable=True)
    flat = (order + torch.arange(len(canvas), device=order.device)[:, None] * scores.shape[1]).flatten()
    nodes = sum(len(tree) for tree in forest.trees)
    return Found(done.pick(flat), scores.flatten()[flat], scores.shape[1], nodes, explored, meter)


class _Forest:
    """All nodes of all trees are rows of one canvas, the arena."""

    def __init__(self, model: DiffusionModel, canvas: Canvas, how: Search, plan: Plan, meter: Meter) -> None:
        self.model, self.how, self.plan, self.meter = model, how, plan, meter
        self.score = score_of(how.score)
        self.capacity = 1 + how.expansions * how.children
        self.arena = canvas.pick([g for g in range(len(canvas)) for _ in range(self.capacity)])
        self.watch = Watch.of(self.arena)
        self.trees = [[_Node(g * self.capacity, 0, None)] for g in range(len(canvas))]

    def expand(self) -> bool:
        """One node of each tree gets its children; False when every tree is whole."""
        leaves = [(g, leaf) for g, tree in enumerate(self.trees) if (leaf := self._leaf(tree)) is not None]
        if not leaves:
            return False
        k = self.how.children
        parents = self.arena.pick([self.trees[g][leaf].row for g, leaf in leaves])
        parents, logits = predict(self.model.denoiser, parents, self.plan.guidance, self.meter)
        from_ = [i for i in range(len(leaves)) for _ in range(k)]
        free = parents.passes - self.arena.pick([self.trees[g][leaf].row for g, leaf in leaves]).passes
        children, record = step(parents.fork(from_), logits[from_], self.plan, self.model.denoiser)
        children = children.replace(passes=children.passes - free[from_])  # shared by the children
        watch = Watch.of(children)
        watch.see(torch.arange(len(children), device=children.ids.device), record)
        goal = torch.tensor([self.how.levels[self.trees[g][leaf].depth] for g, leaf in leaves for _ in range(k)])
        goal = goal.to(children.ids.device)
        children = advance(self.model.denoiser, children, self.plan, goal, watch, self.meter)
        values = checked(self.score(Sight(self.model, children, watch))).tolist()
        rows = []
        for i, (g, leaf) in enumerate(leaves):
            for j in range(k):
                rows.append(self._add(self.trees[g], g, leaf, values[i * k + j]))
        at = torch.tensor(rows, device=children.ids.device)
        self.arena = self.arena.put(at, children)
        for name in ("guess", "certainty", "fresh", "drift"):
            setattr(self.watch, name, getattr(self.watch, name).index_copy(0, at, getattr(watch, name)))
        for g, leaf in leaves:
            self._back_up(self.trees[g], leaf)
        return True

    def directions(self) -> list[int]:
        """Rows of the arena to refine, `branches` a tree: the best by rescaled value, of different parents first where
        depths differ the deeper first; copies of the best when there are too few."""
        out = []
        for tree in self.trees:
            scale = _scales(tree)
            ends = [i for i, node in enumerate(tree) if not node.children]
            ends.sort(key=lambda i: (-tree[i].depth, -scale(tree[i].depth, tree[i].value)))
            ends = ends[: self.how.branches]
            out += [tree[ends[i % len(ends)]].row for i in range(self.how.branches)]
        return out

    def _leaf(self, tree: list[_Node]) -> int | None:
        """Down the tree by PUCT (Silver et al. 2017) to a node without children; None when there is none to expand."""
        open_ = [False] * len(tree)  # whether something below can be expanded
        for i in reversed(range(len(tree))):
            node = tree[i]
            open_[i] = any(open_[c] for c in node.children) if node.children else node.depth < len(self.how.levels)
        if not open_[0]:
            return None
        scale, at = _scales(tree), 0
        while tree[at].children:
            node = tree[at]
            some = [c for c in node.children if open_[c]]
            values = [scale(tree[c].depth, tree[c].value) for c in node.children]
            prior = torch.tensor(values, dtype=torch.float64).softmax(0).tolist()
            prior_of = dict(zip(node.children, prior, strict=True))
            curious = partial(bonus, self.how.exploration, node.visits)
            at = max(some, key=lambda c: tree[c].total / tree[c].visits + curious(prior_of[c], tree[c].visits))
        return at

    def _add(self, tree: list[_Node], g: int, parent: int, value: float) -> int:
        row = g * self.capacity + len(tree)
        tree[parent].children.append(len(tree))
        tree.append(_Node(row, tree[parent].depth + 1, parent, value))
        return row

    def _back_up(self, tree: list[_Node], leaf: int) -> None:
        """Means of rescaled values below each node, all anew: the scales have moved."""
        scale = _scales(tree)
        for node in tree:
            node.total, node.visits = 0.0, 0
        for node in tree[1:]:
            value, at = scale(node.depth, node.value), node
            while True:
                at.total += value
                at.visits += 1
                if at.parent is None:
                    break
                at = tree[at.parent]


def _scales(tree: list[_Node]) -> Callable[[int, float], float]:
    """Values of each depth to [0, 1]."""
    ends: dict[int, tuple[float, float]] = {}
    for node in tree[1:]:
        low, high = ends.get(node.depth, (node.value, node.value))
        ends[node.depth] = (min(low, node.value), max(high, node.value))

    def scale(depth: int, value: float) -> float:
        low, high = ends.get(depth, (0.0, 0.0))
        return rescaled(value, low, high)

    return scale
