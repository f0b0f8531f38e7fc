"""Several branches of one text denoised together: judged midway, the better ones go on, with fresh randomness."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.diffusion import selecting
from thoughtmix.diffusion.ancestry import Ancestry, Round, next_lanes, next_names
from thoughtmix.diffusion.canvas import Canvas
from thoughtmix.diffusion.load import DiffusionModel, load_diffusion
from thoughtmix.diffusion.merging import merge
from thoughtmix.diffusion.policies import Random
from thoughtmix.diffusion.sampler import Meter, Plan
from thoughtmix.diffusion.scores import Sight, checked, score_of
from thoughtmix.diffusion.walk import Watch, advance
from thoughtmix.engine.counter_rng import key, uniform

_RESAMPLE = 0x534D43  # names the stream of resampling
_BLIND = ("ancestral", "first-hitting", "random", "margin", "entropy")  # choose positions without the drawn tokens


@dataclass(frozen=True)
class Branching:
    """How branches compete. Rows of one group do; without selection (none) no row sees another.

    select: none; best (the `keep` of the highest score); diverse (good and unlike each other); smc (sequential Monte
    Carlo: rows are weighted samples of p(text) exp(strength * score(text)), p the sampler at temperature 1, resampled
    when the effective number of them falls below half; needs a policy that chooses positions without looking at the
    tokens drawn). moments: shares of the text decided at which that happens. keep: None: half. refill: copies of those
    that go on take the places of the others; False: the batch shrinks. score: fill, path, or a function of texts.
    weight: what the score counts beside difference (diverse). embed: texts -> (n, d) for difference of meaning; None:
    overlap of their tokens."""

    select: str = "diverse"
    moments: tuple[float, ...] = (0.2, 0.4, 0.6)
    keep: int | None = None
    refill: bool = True
    score: str | Callable[[Sequence[str]], Any] = "fill"
    weight: float = 1.0
    strength: float = 20.0
    embed: Callable[[Sequence[str]], Any] | None = None

    def __post_init__(self) -> None:
        if self.select not in selecting.SELECTIONS:
            raise UnknownName("selection", self.select, selecting.SELECTIONS)
        if any(not 0 < m < 1 for m in self.moments) or list(self.moments) != sorted(set(self.moments)):
            raise InputError(f"moments are {self.moments}.", "Pass rising shares between 0 and 1 (--at 0.25,0.5).")
        if self.keep is not None and self.keep < 1:
            raise InputError(f"keep is {self.keep}.", "Pass 1 or more (--keep 2).")
        if not all(np.isfinite([self.weight, self.strength])):
            raise InputError("A weight is no number.", "Pass finite numbers.")
        if isinstance(self.score, str):
            score_of(self.score)

    def check(self, plan: Plan, group: int) -> None:
        """Raises `InputError` when this cannot be done with `plan` and groups of `group` rows."""
        if self.keep is not None and self.keep > group:
            raise InputError(f"Cannot keep {self.keep} of {group} branches.", f"Pass --keep 1 to {group}.")
        if self.select != "smc":
            return
        if not self.refill or self.keep is not None:
            raise InputError("Resampling decides how many are kept.", "Leave out keep and refill, or select best.")
        if plan.policy.name not in _BLIND or plan.policy.revises:
            raise InputError(
                f"Policy {plan.policy.name} chooses positions by the tokens drawn, so their density is not known.",
                f"For smc choose one of {', '.join(_BLIND)} (--policy random).",
            )
        if plan.guidance or plan.top_p < 1 or plan.min_p > 0:
            raise InputError(
                "smc needs every token that the model allows to be drawn.", "Leave out guidance, top_p, min_p."
            )


@dataclass(frozen=True)
class Frame:
    """One step as it is shown. rows: all that are alive, of `canvas`; lanes: where each is drawn; names: what it is
    called ("2", a copy of it "2b"); round: moments that were passed."""

    canvas: Canvas
    watch: Watch
    lanes: tuple[int, ...]
    names: tuple[str, ...]
    round: int


@dataclass(frozen=True)
class Branched:
    """Finished rows, groups side by side, of equal size. scores (b,): by the score that selected: never report it as
    quality. weights (b,): of smc, summing to 1 in a group; else equal. trees: one a group."""

    model: DiffusionModel = field(repr=False)
    canvas: Canvas
    scores: Tensor
    weights: Tensor
    trees: tuple[Ancestry, ...]
    meter: Meter

    @property
    def group(self) -> int:
        return len(self.canvas) // len(self.trees)

    def texts(self, prompt: bool = True) -> list[str]:
        return self.model.texts(self.canvas, prompt)

    def ranked(self, group: int = 0) -> list[int]:
        """Rows of a group, best first by score."""
        rows = slice(group * self.group, (group + 1) * self.group)
        return [group * self.group + i for i in selecting.best(self.scores[rows].cpu().numpy(), self.group)]


def branch(
    model: DiffusionModel,
    canvas: Canvas,
    how: Branching | None = None,
    plan: Plan | None = None,
    *,
    group: int | None = None,
    meter: Meter | None = None,
    on_frame: Callable[[Frame], None] | None = None,
) -> Branched:
    """Denoise all rows; every `group` neighbours (None: all) compete. Scores come from the steps' own logits, so that
    selecting costs no pass. Raises `InputError`."""
    how, plan, meter = how or Branching(), plan or Plan(Random()), meter or Meter()
    size = len(canvas) if group is None else group
    if size < 1 or len(canvas) % size:
        raise InputError(f"{len(canvas)} rows do not make groups of {size}.", "Pass a multiple.")
    how.check(plan, size)
    if how.select == "smc" and not bool((canvas.temperature > 0).all()):
        raise InputError("smc needs draws, and at temperature 0 there are none.", "Pass --temperature 1.")
    run = _Run(model, canvas, how, plan, meter, size, on_frame)
    if how.select != "none" and size > 1:
        for level in how.moments:
            run.until(level)
            run.select(level)
    run.until(1.0)
    return run.result()


class _Run:
    """The state of one `branch`."""

    def __init__(
        self, model: DiffusionModel, canvas: Canvas, how: Branching, plan: Plan, meter: Meter, size: int, on_frame: Any
    ) -> None:
        self.model, self.how, self.plan, self.meter, self.on_frame = model, how, plan, meter, on_frame
        self.canvas, self.watch, self.size, self.groups = canvas, Watch.of(canvas), size, len(canvas) // size
        self.lanes, self.names = tuple(range(len(canvas))), tuple(str(i + 1) for i in range(len(canvas)))
        self.used = dict.fromkeys(self.names, 0)
        self.score = score_of(how.score)
        self.seeds = canvas.seeds.clone()
        self.weights = torch.zeros(len(canvas), dtype=torch.float64, device=canvas.ids.device)  # logs
        self.told = torch.zeros_like(self.weights)  # the score that a row's weight counts already
        self.rounds: list[list[Round]] = [[] for _ in range(self.groups)]

    def until(self, level: float) -> None:
        def see(now: Canvas) -> None:
            if self.on_frame is not None:
                self.on_frame(Frame(now, dataclasses.replace(self.watch), self.lanes, self.names, len(self.rounds[0])))

        self.canvas = advance(self.model.denoiser, self.canvas, self.plan, level, self.watch, self.meter, see)

    def scores(self) -> Tensor:
        return checked(self.score(Sight(self.model, self.canvas, self.watch)))

    def weigh(self, scores: Tensor) -> None:
        """Count what the score rose by, and p / q of the tokens since the last time (sequential importance
        sampling over the steps' whole paths: positions are chosen by the same rule under p and q, so they cancel)."""
        gain = self.how.strength * (scores - self.told)
        self.weights = self.weights + gain + self.watch.drift
        self.told = scores
        self.watch.drift = torch.zeros_like(self.watch.drift)

    def select(self, level: float) -> None:
        scores = self.scores()
        if self.how.select == "smc":
            self.weigh(scores)
        parents: list[int] = []
        for g in range(self.groups):
            at = slice(g * self.size, (g + 1) * self.size)
            found = self._round(level, scores[at].cpu().numpy(), at, g)
            self.rounds[g].append(found)
            parents += [g * self.size + p for p in found.parents]
        self.lanes = tuple(next_lanes(parents, self.lanes))
        self.names = tuple(next_names(parents, self.names, self.used))
        self.canvas, self.watch = self.canvas.fork(parents), self.watch.pick(parents)
        self.weights, self.told = self.weights[parents], self.told[parents]
        if self.how.select == "smc":
            for g, rounds in enumerate(self.rounds):
                if rounds[-1].chosen:  # resampled: the weight is in the number of copies now
                    self.weights[g * self.size : (g + 1) * self.size] = 0.0
        self.size = len(parents) // self.groups

    def _round(self, level: float, scores: np.ndarray[Any, Any], at: slice, g: int) -> Round:
        n = len(scores)
        said = tuple(float(s) for s in scores)
        if self.how.select == "smc":
            weights = selecting.normalised(self.weights[at].cpu().numpy())
            ess = selecting.effective(weights)
            parents = list(range(n))
            if ess < n / 2:
                first = self.seeds[g * (len(self.seeds) // self.groups)]
                draw = uniform(key(first, _RESAMPLE, len(self.rounds[g])), 1)
                parents = selecting.systematic(weights, float(draw))
            chosen = tuple(sorted(set(parents))) if ess < n / 2 else ()
            return Round(level, said, tuple(parents), chosen, tuple(map(float, weights)), ess)
        keep = min(n, self.how.keep or max(1, n // 2))
        if self.how.select == "best":
            chosen = tuple(selecting.best(scores, keep))
        else:
            chosen = tuple(selecting.diverse(self._distances(at), scores, keep, self.how.weight))
        parents = selecting.copies(chosen, n) if self.how.refill else sorted(chosen)
        return Round(level, said, tuple(parents), chosen)

    def _distances(self, at: slice) -> np.ndarray[Any, Any]:
        if self.how.embed is None:
            real = self.canvas.real[at]
            return selecting.overlap([g[r].tolist() for g, r in zip(self.watch.guess[at], real, strict=True)])
        texts = Sight(self.model, self.canvas, self.watch).texts[at]
        e = np.asarray(self.how.embed(texts), dtype=np.float64)
        e = e / np.linalg.norm(e, axis=1, keepdims=True).clip(1e-12)
        d: np.ndarray[Any, Any] = np.clip(1 - e @ e.T, 0, 2)
        return d

    def result(self) -> Branched:
        scores = self.scores()
        if self.how.select == "smc":
            self.weigh(scores)
        weights = self.weights.view(self.groups, self.size).softmax(1).flatten()
        first = self.seeds.view(self.groups, -1).tolist()
        trees = tuple(
            Ancestry(tuple(first[g]), tuple(self.rounds[g]), tuple(scores.view(self.groups, -1)[g].tolist()))
            for g in range(self.groups)
        )
        return Branched(self.model, self.canvas, scores, weights, trees, self.meter)


@dataclass(frozen=True)
class Thread:
    """One finished branch. confidence: a number a token, of when it was kept. origin: the number of the first branch
    that it came from."""

    text: str
    score: float
    weight: float
    seed: int
    origin: int
    tokens: tuple[str, ...] = field(repr=False)
    confidence: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class Threads(Sequence[Thread]):
    """The branches of one prompt, best first by the score that selected; merged: one text made of the best, or None."""

    prompt: str
    threads: tuple[Thread, ...]
    merged: str | None
    agreed: float
    """Share of the merged text that the best agreed on."""
    ancestry: Ancestry
    meter: Meter

    def __getitem__(self, index: Any) -> Any:
        return self.threads[index]

    def __len__(self) -> int:
        return len(self.threads)

    @property
    def texts(self) -> list[str]:
        return [t.text for t in self.threads]

    @property
    def tree(self) -> str:
        return self.ancestry.tree()


class MultiBranchDiffusion:
    """num_branches texts at once out of noise, along branches that are judged, pruned, copied and merged.

    model: a `DiffusionModel`, or what `load_diffusion` takes. how: the competition; plan: the denoising (128 steps of
    `random`, so that all branches stand at the same level of noise at every step). merge: the best so many are made
    one; 0: none.
    """

    def __init__(
        self,
        num_branches: int = 8,
        model: DiffusionModel | str | None = None,
        *,
        how: Branching | None = None,
        plan: Plan | None = None,
        merge: int = 0,
    ) -> None:
        if num_branches < 1:
            raise InputError(f"num_branches is {num_branches}.", "Pass 1 or more (--branches 4).")
        if merge and not 2 <= merge <= num_branches:
            raise InputError(f"Cannot merge {merge} of {num_branches} branches.", f"Pass 2 to {num_branches}.")
        self.num_branches, self.how, self.merge = num_branches, how or Branching(), merge
        self.plan = plan or Plan(Random(), steps=128)
        self.how.check(self.plan, num_branches)
        self.model = model if isinstance(model, DiffusionModel) else load_diffusion(model)

    def generate_parallel(
        self,
        prompt: str,
        length: int = 256,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        on_frame: Callable[[Frame], None] | None = None,
    ) -> Threads:
        """Branches of one prompt ("" is unconditional), `length` tokens each. A branch's text depends on its own seed
        (seed + i) alone if how.select is none; else on the whole set, which the seed determines."""
        seeds = range(seed, seed + self.num_branches)
        canvas = self.model.canvas(prompt, length, list(seeds), temperature)
        return self.denoise(canvas, prompt, on_frame=on_frame)

    def denoise(self, canvas: Canvas, prompt: str = "", *, on_frame: Callable[[Frame], None] | None = None) -> Threads:
        """The same for any canvas of one text: an infill, or a text that was partly forgotten."""
        done = branch(self.model, canvas, self.how, self.plan, on_frame=on_frame)
        order = done.ranked()
        texts, tree = done.texts(), done.trees[0]
        merged, agreed = None, 0.0
        if self.merge:
            best = order[: self.merge]
            seed = int(key(done.canvas.seeds[0], _RESAMPLE, -1))
            one, where = merge(self.model, done.canvas, best, self.plan, seed=seed, meter=done.meter)
            merged = self.model.texts(one)[0]
            agreed = float(where.sum() / (one.real & ~canvas.locked[:1]).sum().clamp(min=1))
        threads = tuple(
            Thread(
                texts[i], float(done.scores[i]), float(done.weights[i]), int(done.canvas.seeds[i]), tree.origin(i),
                tuple(self.model.pieces(done.canvas.ids[i][done.canvas.real[i]])),
                tuple(done.canvas.confidence[i][done.canvas.real[i]].tolist()),
            )
            for i in order
        )  # fmt: skip
        return Threads(prompt, threads, merged, agreed, tree, done.meter)
