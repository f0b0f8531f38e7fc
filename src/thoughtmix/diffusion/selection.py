"""How good a branch looks midway, and which branches go on.

Higher scores are better. They compare branches at the same level of noise only. What is chosen is deterministic, or
drawn from a number that is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from thoughtmix.core.errors import InputError, NumericsError, UnknownName
from thoughtmix.diffusion.load import DiffusionModel
from thoughtmix.diffusion.sampler import StepStats
from thoughtmix.diffusion.state import DiffusionState

if TYPE_CHECKING:
    from thoughtmix.models import LanguageModel

SELECTIONS = ("none", "best", "diverse", "smc")
Floats = NDArray[np.float64]
_LEAST = 1e-30  # a probability below this counts as this


@dataclass(frozen=True)
class ScoreInputs:
    """All branches (b rows) at one moment."""

    model: DiffusionModel
    state: DiffusionState
    stats: StepStats

    @cached_property
    def texts(self) -> list[str]:
        """Each branch's best guess, prompt and all."""
        return self.model.texts(self.state.replace(ids=self.stats.guess))


Score = Callable[[ScoreInputs], Tensor]
"""Gives (b,) float64."""


def fill_score(inputs: ScoreInputs) -> Tensor:
    """Mean log-probability, nats, of the best guess at the positions that were undecided before the last step, by that
    step's logits: no further pass (as in TReASURe). Of finished rows, `path_score`."""
    done = inputs.state.num_masked == 0
    where = torch.where(done[:, None], inputs.state.writable, inputs.stats.fresh)
    return _mean_log(inputs.stats.certainty, where)


def path_score(inputs: ScoreInputs) -> Tensor:
    """The same over all writable positions; of a decided one, the probability when it was kept."""
    return _mean_log(inputs.stats.certainty, inputs.state.writable)


def text_score(judge: Callable[[Sequence[str]], Any]) -> Score:
    """A score from any function of the texts (best guesses, prompt included) that gives a number each."""

    def score(inputs: ScoreInputs) -> Tensor:
        values = torch.as_tensor(judge(inputs.texts), dtype=torch.float64).reshape(-1)
        if len(values) != len(inputs.state):
            raise InputError(
                f"The score gave {len(values)} numbers for {len(inputs.state)} texts.", "Return one number a text."
            )
        return values.to(inputs.state.ids.device)

    return score


SCORES: dict[str, Score] = {"fill": fill_score, "path": path_score}


def make_score(score: str | Callable[[Sequence[str]], Any]) -> Score:
    """The score of a name, or of a function of texts. It raises `NumericsError` where it is NaN or infinite.

    Raises:
        UnknownName: When there is none of this name.
    """
    if isinstance(score, str) and score not in SCORES:
        raise UnknownName("score", score, SCORES)
    compute = SCORES[score] if isinstance(score, str) else text_score(score)

    def finite(inputs: ScoreInputs) -> Tensor:
        values = compute(inputs)
        if not bool(values.isfinite().all()):
            raise NumericsError("A score is NaN or infinite.", "Check the judge (--score).")
        return values.double()

    return finite


def likelihood_judge(judge: LanguageModel, batch_size: int = 32) -> Callable[[Sequence[str]], Tensor]:
    """A judge of texts: mean log-probability of a token under an autoregressive model, each given those before it."""

    @torch.no_grad()
    def score(texts: Sequence[str]) -> Tensor:
        rows = [judge.encoder.text(t, frame=False) for t in texts]
        longest = max(map(len, rows), default=0)
        if judge.context_length is not None and longest > judge.context_length:
            raise InputError(
                f"A text has {longest} tokens, the judge {judge.name} reads {judge.context_length}.",
                "Name a judge with a longer context (--score).",
            )
        out = torch.zeros(len(rows), dtype=torch.float64)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for at in range(0, len(order), batch_size):
            some = order[at : at + batch_size]
            width = max(2, *(len(rows[i]) for i in some))
            ids = torch.tensor([rows[i] + [0] * (width - len(rows[i])) for i in some], device=judge.device)
            # Padding stands behind everything that a causal model can see: no mask is needed.
            logits = judge.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            logp = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].double().cpu()
            for i, row in zip(some, logp, strict=True):
                n = len(rows[i]) - 1
                out[i] = row[:n].mean() if n > 0 else 0.0
        return out

    return score


def _mean_log(certainty: Tensor, where: Tensor) -> Tensor:
    logs = certainty.double().clamp(min=_LEAST).log() * where
    return logs.sum(1) / where.sum(1).clamp(min=1)


def best_rows(scores: ArrayLike, k: int) -> list[int]:
    """The k of the highest scores, best first; of equal ones the first."""
    return [int(i) for i in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:k]]


def ngram_distances(rows: Sequence[Sequence[int]], size: int = 3) -> Floats:
    """(n, n) distances of token sequences, 1 - cosine of their counts of `size`-grams: 0 equal, 1 nothing shared.

    A shifted copy is near. 1 - distance is a positive semi-definite kernel.
    """
    counts = [Counter(zip(*(row[i:] for i in range(size)), strict=False)) or Counter({(): 1}) for row in rows]
    index = {gram: i for i, gram in enumerate({g for c in counts for g in c})}
    table = np.zeros((len(rows), len(index)))
    for row, count in zip(table, counts, strict=True):
        row[[index[g] for g in count]] = list(count.values())
    return cosine_distances(table, most=1)


def cosine_distances(vectors: ArrayLike, most: float = 2) -> Floats:
    """(n, d) -> (n, n) of 1 - cosine, in [0, most]."""
    e = np.asarray(vectors, dtype=np.float64)
    e = e / np.linalg.norm(e, axis=1, keepdims=True).clip(1e-12)
    d: Floats = np.clip(1 - e @ e.T, 0, most)
    np.fill_diagonal(d, 0)
    return d


def refill(chosen: Sequence[int], n: int) -> list[int]:
    """Parents of n rows from the chosen ones of n: a chosen row stays in its place, every other place is taken by a
    copy, the earlier chosen (the better) first."""
    kept = set(chosen)
    parents = list(range(n))
    for turn, place in enumerate(i for i in range(n) if i not in kept):
        parents[place] = chosen[turn % len(chosen)]
    return parents


def normalise_weights(log_weights: ArrayLike) -> Floats:
    """Weights that sum to 1."""
    x = np.asarray(log_weights, dtype=np.float64)
    w = np.exp(x - x.max())
    out: Floats = w / w.sum()
    return out


def effective_sample_size(weights: ArrayLike) -> float:
    """Of normalised weights, 1 to n."""
    return float(1 / np.square(np.asarray(weights, dtype=np.float64)).sum())


def systematic_resampling(weights: ArrayLike, uniform: float) -> list[int]:
    """Parents of n rows, each row of weight w taken floor(n w) or ceil(n w) times, n w on average (Carpenter et al.
    1999), from one uniform number in (0, 1). A row that is taken stays in its place."""
    w = np.asarray(weights, dtype=np.float64)
    n = len(w)
    edges = np.cumsum(w)
    taken = np.minimum(np.searchsorted(edges / edges[-1], (np.arange(n) + uniform) / n, side="right"), n - 1)
    counts = np.bincount(taken, minlength=n)
    parents = list(range(n))
    extra = [i for i in range(n) for _ in range(counts[i] - 1)]
    for place, parent in zip((i for i in range(n) if not counts[i]), extra, strict=True):
        parents[place] = parent
    return parents
