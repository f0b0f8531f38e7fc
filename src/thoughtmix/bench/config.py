"""What a bench run is: which systems, on which prompts, with how much. Fixed before the first token is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtmix.bench.tasks import Item, TaskKind
from thoughtmix.bench.trials import Setting, Trial
from thoughtmix.core.errors import InputError, UnknownName

if TYPE_CHECKING:
    from thoughtmix.bench.pipeline import BenchPipeline

SEED_STEP = 1000  # thought i of seed s draws from seed 1000 s + i: seeds share no thought for n up to 1000
JUDGED_BY = ("likelihood", "rubric", "pairs")
_NAMES_ON_DISK = {"systems": "thinkers", "grids": "ladders"}  # of the first version, whose runs can be continued


@dataclass(frozen=True, slots=True)
class Models:
    """Models by the names of the command line. Without a judge or a reward model, quality is what needs none.

    Raises:
        InputError: for a way to judge that is none, or that the judge cannot go.
    """

    model: str | None = None
    judge: str | None = None
    embedder: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    judge_endpoint: str | None = None
    """Where the judge is: a URL, or @profile. `judge` is then its model there."""
    judge_by: str | None = None
    """How a judge judges: likelihood (a model here, the default), rubric (at an endpoint the default), or pairs."""
    reward: str | None = None
    """A reward model, which then says how good answers are: a folder, an id, or novelty-bench."""
    equivalence: str = "auto"
    """What tells which answers are the same: embedder, words, novelty-bench, or a classifier's or embedder's name."""

    def __post_init__(self) -> None:
        if self.judge_by is None:
            return
        if self.judge_by not in JUDGED_BY:
            raise UnknownName("way to judge", self.judge_by, JUDGED_BY)
        if self.judge is None and self.judge_endpoint is None:
            raise InputError("Nobody was named who judges.", "Pass --judge MODEL or --judge-endpoint URL.")
        if self.judge_by == "likelihood" and self.judge_endpoint is not None:
            raise InputError("Endpoints tell no likelihood of a given text.", "Pass --judge-by rubric, or pairs.")

    @property
    def judged_by(self) -> str | None:
        """How quality is judged; None: by no judge."""
        if self.judge is None and self.judge_endpoint is None:
            return None
        return self.judge_by or ("rubric" if self.judge_endpoint is not None else "likelihood")

    def pipeline(self) -> BenchPipeline:
        from thoughtmix.bench.pipeline import BenchPipeline
        from thoughtmix.models.profile import connect

        judge: Any = self.judge
        if self.judge_endpoint is not None:
            judge = connect(self.judge_endpoint, self.judge)
        return BenchPipeline(self.model, dtype=self.dtype, device=self.device, embedder=self.embedder, judge=judge)

    def to_dict(self) -> dict[str, Any]:
        """What differs from the first version's fields only where it is set, so that its runs can be continued."""
        first = {"model", "judge", "embedder", "dtype", "device"}
        default = {f.name: f.default for f in dataclasses.fields(self)}
        return {k: v for k, v in dataclasses.asdict(self).items() if k in first or v != default[k]}


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """A whole run. Each trial has n thoughts and at most n * max_new_tokens tokens, whichever system answers.

    Raises:
        InputError: for sizes that cannot be run, settings that cannot be kept, and prompts that lack the paraphrases
            which a system needs.
    """

    systems: tuple[str, ...]
    """Names of what takes part. The first is the baseline of every comparison."""
    grids: Mapping[str, Sequence[Setting]]
    """The settings of each system, equally many."""
    development: tuple[Item, ...]
    """Items on which settings are chosen."""
    held_out: tuple[Item, ...]
    """Items on which the chosen settings are reported."""
    n: int = 8
    max_new_tokens: int = 48
    seeds: int = 3
    """How many times each prompt and setting is tried."""
    keep: int = 3
    """How many settings of each system are reported."""
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
        if len(set(self.systems)) < len(self.systems) or not self.systems:
            raise InputError("A thinker is named twice, or none is.", "Pass --thinkers sampling,styles")
        count = len(self.grids[self.systems[0]])
        if not 1 <= self.keep <= count:
            raise InputError(f"Cannot keep {self.keep} of {count} settings.", "Lower --keep.")
        bare = [item.id for item in self.items.values() if not item.paraphrases]
        if "paraphrase" in self.systems and bare:
            raise InputError(
                f"{bare[0]} has no paraphrases.", "Add `prompt_paraphrases` to its line, or drop `paraphrase`."
            )

    @property
    def items(self) -> dict[str, Item]:
        return {item.id: item for item in (*self.development, *self.held_out)}

    @property
    def kinds(self) -> list[TaskKind]:
        """The kinds of item that there are, in the order open, coverage, reasoning."""
        there = {item.kind for item in self.development}
        return [kind for kind in ("open", "coverage", "reasoning") if kind in there]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON, under the names that it has on disk. A folder is continued when it is the same."""
        out = {_NAMES_ON_DISK.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        return {**out, "models": self.models.to_dict()}

    @property
    def trial_count(self) -> int:
        """Trials of the whole run, the chosen settings on held-out items included."""
        settings = sum(len(grid) for grid in self.grids.values())
        kept = self.keep * len(self.systems)
        return self.seeds * (settings * len(self.development) + kept * len(self.held_out))

    def development_trials(self) -> list[Trial]:
        """Every setting of every system. Seeds are outermost: after the first, every system was everywhere once."""
        return [
            Trial(system, setting, item.id, seed)
            for seed in range(self.seeds)
            for item in self.development
            for system in self.systems
            for setting in range(len(self.grids[system]))
        ]

    def held_out_trials(self, chosen: Mapping[TaskKind, Mapping[str, Sequence[int]]]) -> list[Trial]:
        """The chosen settings only. They are given by kind of item and system."""
        return [
            Trial(system, setting, item.id, seed)
            for seed in range(self.seeds)
            for item in self.held_out
            for system in self.systems
            for setting in chosen[item.kind][system]
        ]


def split_items(
    items: Sequence[Item], share: float = 0.4, limit: int | None = None, seed: int = 0
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Split items into development and held-out ones, by seed alone.

    Args:
        share: the part of each kind that is for development.
        limit: take only so many of each kind.

    Raises:
        InputError: for a kind with too few items to do both.
    """
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
