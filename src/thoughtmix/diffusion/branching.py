"""Several branches of one text denoised together: judged midway, the better ones go on, the best are merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.selection import each_origin_first, select_diverse
from thoughtmix.diffusion import selection
from thoughtmix.diffusion.ancestry import Ancestry, SelectionRound, next_lanes, next_names
from thoughtmix.diffusion.load import DiffusionModel, load_diffusion
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.renoise import merge
from thoughtmix.diffusion.sampler import DenoisingConfig, ForwardCost, StepStats, denoise_until
from thoughtmix.diffusion.state import DiffusionState
from thoughtmix.engine.counter_rng import key, uniform

_RESAMPLE = 0x534D43  # names the stream of resampling
_BLIND = ("ancestral", "first-hitting", "random", "margin", "entropy")  # choose positions without the drawn tokens


@dataclass(frozen=True)
class BranchingConfig:
    """How branches compete. Rows of one group do; without selection (none) no row sees another.

    Args:
        select: none; best (the `keep` of the highest score); diverse (good and unlike each other: greedy MAP of a
            determinantal point process, one of each first ancestor before a second of any); smc (sequential Monte
            Carlo: rows are weighted samples of p(text) exp(strength * score(text)), p the sampler at temperature 1,
            resampled when the effective number of them falls below half; needs a policy that chooses positions without
            looking at the tokens drawn).
        moments: Shares of the text decided at which that happens.
        keep: How many go on; None: half.
        refill: Copies of those that go on take the places of the others. False: the batch shrinks.
        score: fill, path, or a function of texts.
        weight: What the score counts beside difference (diverse).
        strength: What a nat of score counts (smc).
        embed: texts -> (n, d) for difference of meaning (diverse). None: overlap of their tokens.

    Raises:
        UnknownName: For a selection or score that there is not.
        InputError: For numbers out of range.
    """

    select: str = "diverse"
    moments: tuple[float, ...] = (0.2, 0.4, 0.6)
    keep: int | None = None
    refill: bool = True
    score: str | Callable[[Sequence[str]], Any] = "fill"
    weight: float = 1.0
    strength: float = 20.0
    embed: Callable[[Sequence[str]], Any] | None = None

    def __post_init__(self) -> None:
        if self.select not in selection.SELECTIONS:
            raise UnknownName("selection", self.select, selection.SELECTIONS)
        if any(not 0 < m < 1 for m in self.moments) or list(self.moments) != sorted(set(self.moments)):
            raise InputError(f"moments are {self.moments}.", "Pass rising shares between 0 and 1 (--at 0.25,0.5).")
        if self.keep is not None and self.keep < 1:
            raise InputError(f"keep is {self.keep}.", "Pass 1 or more (--keep 2).")
        if not all(np.isfinite([self.weight, self.strength])):
            raise InputError("A weight is no number.", "Pass finite numbers.")
        selection.make_score(self.score)

    def check(self, denoising: DenoisingConfig, group: int) -> None:
        """Raises `InputError` when this cannot be done with `denoising` and groups of `group` rows."""
        if self.keep is not None and self.keep > group:
            raise InputError(f"Cannot keep {self.keep} of {group} branches.", f"Pass --keep 1 to {group}.")
        if self.select != "smc":
            return
        if not self.refill or self.keep is not None:
            raise InputError("Resampling decides how many are kept.", "Leave out keep and refill, or select best.")
        if denoising.policy.name not in _BLIND or denoising.policy.revises:
            raise InputError(
                f"Policy {denoising.policy.name} chooses positions by the tokens drawn, so their density is not known.",
                f"For smc choose one of {', '.join(_BLIND)} (--policy random).",
            )
        if denoising.guidance or denoising.top_p < 1 or denoising.min_p > 0:
            raise InputError(
                "smc needs every token that the model allows to be drawn.", "Leave out guidance, top_p, min_p."
            )


@dataclass(frozen=True)
class Frame:
    """One step as it is shown."""

    state: DiffusionState  # all rows that are alive
    stats: StepStats  # what their last steps said
    lanes: tuple[int, ...]  # where each is drawn
    names: tuple[str, ...]  # what each is called: "2", a copy of it "2b"
    round: int  # moments that were passed


@dataclass(frozen=True)
class BranchedRows:
    """Finished rows, groups side by side, of equal size."""

    model: DiffusionModel = field(repr=False)
    state: DiffusionState
    scores: Tensor  # (b,): by which was selected; never report it as quality
    weights: Tensor  # (b,): of smc, summing to 1 in a group; else equal
    trees: tuple[Ancestry, ...]  # who came from whom, one a group
    cost: ForwardCost

    def texts(self, prompt: bool = True) -> list[str]:
        return self.model.texts(self.state, prompt)

    def ranked(self, group: int = 0) -> list[int]:
        """Rows of a group, best first by score."""
        size = len(self.state) // len(self.trees)
        rows = slice(group * size, (group + 1) * size)
        return [group * size + i for i in selection.best_rows(self.scores[rows].cpu().numpy(), size)]


def branch(
    model: DiffusionModel,
    state: DiffusionState,
    branching: BranchingConfig | None = None,
    denoising: DenoisingConfig | None = None,
    *,
    group: int | None = None,
    cost: ForwardCost | None = None,
    on_frame: Callable[[Frame], None] | None = None,
) -> BranchedRows:
    """Denoise all rows; every `group` neighbours (None: all) compete.

    Scores come from the steps' own logits, so that selecting costs no pass.

    Raises:
        InputError: When rows do not make groups, or the two configurations do not fit.
    """
    branching, denoising = branching or BranchingConfig(), denoising or DenoisingConfig(Random())
    size = len(state) if group is None else group
    if size < 1 or len(state) % size:
        raise InputError(f"{len(state)} rows do not make groups of {size}.", "Pass a multiple.")
    branching.check(denoising, size)
    if branching.select == "smc" and not bool((state.temperature > 0).all()):
        raise InputError("smc needs draws, and at temperature 0 there are none.", "Pass --temperature 1.")
    run = _BranchingRun(model, state, branching, denoising, cost or ForwardCost(), size, on_frame)
    if branching.select != "none" and size > 1:
        for level in branching.moments:
            run.denoise_until(level)
            run.select(level)
    run.denoise_until(1.0)
    return run.result()


class _BranchingRun:
    """The state of one `branch`."""

    def __init__(
        self,
        model: DiffusionModel,
        state: DiffusionState,
        branching: BranchingConfig,
        denoising: DenoisingConfig,
        cost: ForwardCost,
        size: int,
        on_frame: Callable[[Frame], None] | None,
    ) -> None:
        self.model, self.branching, self.denoising, self.cost = model, branching, denoising, cost
        self.state, self.stats, self.on_frame = state, StepStats.before_any_step(state), on_frame
        self.size, self.groups = size, len(state) // size
        self.lanes, self.names = tuple(range(len(state))), tuple(str(i + 1) for i in range(len(state)))
        self.copies = dict.fromkeys(self.names, 0)
        self.origins = tuple(range(len(state)))  # the first row that each came from
        self.score = selection.make_score(branching.score)
        self.seeds = state.seeds.view(self.groups, size)
        self.log_weights = torch.zeros(len(state), dtype=torch.float64, device=state.ids.device)
        self.weighed = torch.zeros_like(self.log_weights)  # the score that a row's weight counts already
        self.rounds: list[list[SelectionRound]] = [[] for _ in range(self.groups)]

    def denoise_until(self, level: float) -> None:
        def show(state: DiffusionState) -> None:
            if self.on_frame is not None:
                stats = dataclasses.replace(self.stats)
                self.on_frame(Frame(state, stats, self.lanes, self.names, len(self.rounds[0])))

        self.state = denoise_until(self.model.denoiser, self.state, self.denoising, level, self.stats, self.cost, show)

    def scores(self) -> Tensor:
        """(b,), counted in the weights of smc."""
        scores = self.score(selection.ScoreInputs(self.model, self.state, self.stats))
        if self.branching.select == "smc":
            # What the score rose by, and p / q of the tokens since the last time (sequential importance sampling over
            # the steps' whole paths: positions are chosen by the same rule under p and q, so they cancel).
            gain = self.branching.strength * (scores - self.weighed)
            self.log_weights = self.log_weights + gain + self.stats.log_weight
            self.weighed = scores
            self.stats.log_weight = torch.zeros_like(self.stats.log_weight)
        return scores

    def select(self, level: float) -> None:
        """Decide which rows of each group go on."""
        scores = self.scores()
        parents: list[int] = []
        for g in range(self.groups):
            rows = slice(g * self.size, (g + 1) * self.size)
            said = scores[rows].tolist()
            smc = self.branching.select == "smc"
            chosen = self._resample(level, said, rows, g) if smc else self._choose(level, said, rows)
            self.rounds[g].append(chosen)
            parents += [rows.start + p for p in chosen.parents]
        self.lanes = tuple(next_lanes(parents, self.lanes))
        self.names = tuple(next_names(parents, self.names, self.copies))
        self.origins = tuple(self.origins[p] for p in parents)
        self.state, self.stats = self.state.fork(parents), self.stats.select_rows(parents)
        self.log_weights, self.weighed = self.log_weights[parents], self.weighed[parents]
        self.size = len(parents) // self.groups

    def _resample(self, level: float, scores: list[float], rows: slice, g: int) -> SelectionRound:
        n = len(scores)
        weights = selection.normalise_weights(self.log_weights[rows].cpu().numpy())
        size = selection.effective_sample_size(weights)
        parents = list(range(n))
        chosen: tuple[int, ...] = ()
        if size < n / 2:
            draw = uniform(key(self.seeds[g, 0], _RESAMPLE, len(self.rounds[g])), 1)
            parents = selection.systematic_resampling(weights, float(draw))
            chosen = tuple(sorted(set(parents)))
            self.log_weights[rows] = 0.0  # the weight is in the number of copies now
        return SelectionRound(level, tuple(scores), tuple(parents), chosen, tuple(weights.tolist()), size)

    def _choose(self, level: float, scores: list[float], rows: slice) -> SelectionRound:
        n = len(scores)
        keep = min(n, self.branching.keep or max(1, n // 2))
        if self.branching.select == "best":
            chosen = selection.best_rows(scores, keep)
        else:
            order = select_diverse(self._distances(rows).tolist(), scores, n, self.branching.weight)
            chosen = each_origin_first(order, self.origins[rows])[:keep]
        parents = selection.refill(chosen, n) if self.branching.refill else sorted(chosen)
        return SelectionRound(level, tuple(scores), tuple(parents), tuple(chosen))

    def _distances(self, rows: slice) -> selection.Floats:
        if self.branching.embed is not None:
            texts = selection.ScoreInputs(self.model, self.state, self.stats).texts[rows]
            return selection.cosine_distances(self.branching.embed(texts))
        guesses = zip(self.stats.guess[rows], self.state.real[rows], strict=True)
        return selection.ngram_distances([guess[real].tolist() for guess, real in guesses])

    def result(self) -> BranchedRows:
        scores = self.scores()
        weights = self.log_weights.view(self.groups, self.size).softmax(1).flatten()
        final = scores.view(self.groups, -1).tolist()
        trees = tuple(
            Ancestry(tuple(seeds), tuple(rounds), tuple(said))
            for seeds, rounds, said in zip(self.seeds.tolist(), self.rounds, final, strict=True)
        )
        return BranchedRows(self.model, self.state, scores, weights, trees, self.cost)


@dataclass(frozen=True)
class Branch:
    """One finished branch."""

    text: str  # prompt and all
    score: float  # by which was selected
    weight: float  # of smc, summing to 1 over the branches; else equal
    seed: int
    origin: int  # the index of the first branch that it came from
    tokens: tuple[str, ...] = field(repr=False)  # the text of each
    confidence: tuple[float, ...] = field(repr=False)  # of each token, when it was kept


@dataclass(frozen=True)
class BranchedResult(Sequence[Branch]):
    """The branches of one prompt, best first by the score that selected."""

    prompt: str
    branches: tuple[Branch, ...]
    merged: str | None  # one text made of the best
    agreed: float  # share of the merged text that the best agreed on
    ancestry: Ancestry
    cost: ForwardCost

    def __getitem__(self, index: Any) -> Any:
        return self.branches[index]

    def __len__(self) -> int:
        return len(self.branches)

    @property
    def texts(self) -> list[str]:
        return [b.text for b in self.branches]


class MultiBranchDiffusion:
    """Several texts at once out of noise, along branches that are judged, pruned, copied and merged.

    Args:
        num_branches: How many.
        model: A `DiffusionModel`, or what `load_diffusion` takes.
        branching: How branches compete.
        denoising: How rows are denoised. None: 128 steps of `random`, so that all branches stand at the same level of
            noise at every step.
        merge: The best so many are made one; 0: none.

    Raises:
        InputError: For numbers that do not fit each other.
    """

    def __init__(
        self,
        num_branches: int = 8,
        model: DiffusionModel | str | None = None,
        *,
        branching: BranchingConfig | None = None,
        denoising: DenoisingConfig | None = None,
        merge: int = 0,
    ) -> None:
        if num_branches < 1:
            raise InputError(f"num_branches is {num_branches}.", "Pass 1 or more (--branches 4).")
        if merge and not 2 <= merge <= num_branches:
            raise InputError(f"Cannot merge {merge} of {num_branches} branches.", f"Pass 2 to {num_branches}.")
        self.num_branches, self.branching, self.merge = num_branches, branching or BranchingConfig(), merge
        self.denoising = denoising or DenoisingConfig(Random(), steps=128)
        self.branching.check(self.denoising, num_branches)
        self.model = model if isinstance(model, DiffusionModel) else load_diffusion(model)

    def generate_parallel(
        self,
        prompt: str,
        length: int = 256,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        on_frame: Callable[[Frame], None] | None = None,
    ) -> BranchedResult:
        """Write branches of one prompt.

        A branch's text depends on its own seed (seed + i) alone without selection; else on the whole set, which the
        seed determines.

        Args:
            prompt: "" is unconditional.
            length: Tokens of each branch.
            on_frame: Called after each step.
        """
        seeds = range(seed, seed + self.num_branches)
        state = self.model.prompt_state(prompt, length, list(seeds), temperature)
        return self.denoise(state, prompt, on_frame=on_frame)

    def denoise(
        self, state: DiffusionState, prompt: str = "", *, on_frame: Callable[[Frame], None] | None = None
    ) -> BranchedResult:
        """The same for any state of one text: an infill, or a text that was partly forgotten."""
        done = branch(self.model, state, self.branching, self.denoising, on_frame=on_frame)
        order, tree, end = done.ranked(), done.trees[0], done.state
        merged, agreed = None, 0.0
        if self.merge:
            seed = int(key(end.seeds[0], _RESAMPLE, -1))
            one, where = merge(self.model, end, order[: self.merge], self.denoising, seed=seed, cost=done.cost)
            merged = self.model.texts(one)[0]
            agreed = float(where.sum() / state.writable[0].sum().clamp(min=1))
        texts = done.texts()
        branches = tuple(
            Branch(
                text=texts[i],
                score=float(done.scores[i]),
                weight=float(done.weights[i]),
                seed=int(end.seeds[i]),
                origin=tree.origin(i),
                tokens=tuple(self.model.pieces(end.ids[i][end.real[i]])),
                confidence=tuple(end.confidence[i][end.real[i]].tolist()),
            )
            for i in order
        )
        return BranchedResult(prompt, branches, merged, agreed, tree, done.cost)
