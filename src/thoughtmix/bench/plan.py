"""What a bench run is: who, on which prompts, with how much. Fixed before the first token, kept with the results."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtmix.bench.cells import Cell
from thoughtmix.bench.contestants import Ask, Setting, contestant
from thoughtmix.bench.runner import Work
from thoughtmix.bench.tasks import Item, Kind
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.api import Pipeline

SEED_STEP = 1000  # thought i of seed s draws from seed 1000 s + i: seeds share no thought for n up to 1000


@dataclass(frozen=True, slots=True)
class Models:
    """Names as on the command line. judge None: the generator judges itself, which the report says in red."""

    model: str | None = None
    judge: str | None = None
    embedder: str | None = None
    dtype: str = "auto"
    device: str = "auto"

    def pipeline(self) -> Pipeline:
        from thoughtmix.api import Pipeline

        return Pipeline(self.model, dtype=self.dtype, device=self.device, embedder=self.embedder, judge=self.judge)


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. The first thinker is the baseline of every comparison.

    n thoughts and at most n * max_new_tokens tokens a cell, whoever answers. seeds: how many. ladders: each thinker's
    settings, equally many. keep: how many of them, chosen on `development` items, are reported on `held_out` ones.
    """

    thinkers: tuple[str, ...]
    ladders: Mapping[str, Sequence[Setting]]
    development: tuple[Item, ...]
    held_out: tuple[Item, ...]
    n: int = 8
    max_new_tokens: int = 48
    seeds: int = 3
    keep: int = 3
    seed: int = 0
    """Of the split, the intervals and the examples."""
    threshold: float = 0.3
    """Distance below which two longer answers count as the same in distinct_k."""
    models: Models = dataclasses.field(default_factory=Models)

    def __post_init__(self) -> None:
        if not 1 <= self.n <= SEED_STEP or self.max_new_tokens < 1 or self.seeds < 1:
            raise InputError(
                f"n={self.n}, {self.max_new_tokens} tokens a thought, {self.seeds} seeds.",
                f"Pass n from 1 to {SEED_STEP}, a budget of at least n tokens, and 1 seed or more (3 for a result).",
            )
        if len(set(self.thinkers)) < len(self.thinkers) or not self.thinkers:
            raise InputError("A thinker is named twice, or none is.", "Pass --thinkers sampling,styles")

    @property
    def items(self) -> dict[str, Item]:
        return {item.id: item for item in (*self.development, *self.held_out)}

    @property
    def kinds(self) -> list[Kind]:
        """Kinds of item there are, in the order open, coverage, reasoning."""
        there = {item.kind for item in self.development}
        return [kind for kind in ("open", "coverage", "reasoning") if kind in there]

    def about(self) -> dict[str, Any]:
        """As JSON: what must be the same for a folder to be continued."""
        return dataclasses.asdict(self)

    def development_cells(self) -> list[Cell]:
        """Every setting of every thinker. Seeds outermost: after the first, every thinker has been everywhere once."""
        return [
            Cell(thinker, setting, item.id, seed)
            for seed in range(self.seeds)
            for item in self.development
            for thinker in self.thinkers
            for setting in range(len(self.ladders[thinker]))
        ]

    def held_out_cells(self, chosen: Mapping[Kind, Mapping[str, Sequence[int]]]) -> list[Cell]:
        """The chosen settings only: by kind of item and thinker."""
        return [
            Cell(thinker, setting, item.id, seed)
            for seed in range(self.seeds)
            for item in self.held_out
            for thinker in self.thinkers
            for setting in chosen[item.kind][thinker]
        ]


@dataclass(frozen=True, slots=True)
class Worker:
    """Makes what runs a plan's cells: loads the models once in each process. Picklable, as the plan is."""

    plan: Plan

    def __call__(self) -> Work:
        pipeline = self.plan.models.pipeline()
        items = self.plan.items

        def work(cell: Cell) -> dict[str, Any]:
            began = time.perf_counter()
            ask = Ask(items[cell.item], self.plan.n, SEED_STEP * cell.seed, self.plan.max_new_tokens)
            made = contestant(cell.thinker).answer(pipeline, ask, self.plan.ladders[cell.thinker][cell.setting])
            seconds = time.perf_counter() - began
            return {"set": _measured(made, pipeline, ask.item.kind).to_dict(), "seconds": round(seconds, 3)}

        return work


def _measured(made: Any, pipeline: Pipeline, kind: Kind) -> Any:
    """Only open prompts need embeddings and a judge: the answers of the others are checked."""
    from thoughtmix.metrics import measure

    if kind != "open":
        return measure(made)
    return measure(made, embedder=pipeline.embedder, judge=pipeline.judge or pipeline.model)


def split(
    items: Sequence[Item], share: float = 0.4, limit: int | None = None, seed: int = 0
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Development and held-out items, `share` of each kind for development; `limit` takes that many of each kind first.
    Drawn by seed alone. Raises `InputError` for a kind with too few to do both."""
    if not 0 < share < 1:
        raise InputError(f"A development share of {share}.", "Pass a share between 0 and 1 (0.4).")
    rng = np.random.default_rng([seed, 977])
    development: list[Item] = []
    held_out: list[Item] = []
    for kind in sorted({item.kind for item in items}):
        own = [item for item in items if item.kind == kind]
        own = [own[i] for i in rng.permutation(len(own))[:limit]]
        cut = max(1, round(share * len(own)))
        if len(own) - cut < 2:
            raise InputError(
                f"{len(own)} {kind} prompts are too few: 1 to choose settings and 2 to report are the least.",
                "Pass more; 30 held-out ones or more give useful intervals.",
            )
        development += own[:cut]
        held_out += own[cut:]
    return tuple(development), tuple(held_out)
