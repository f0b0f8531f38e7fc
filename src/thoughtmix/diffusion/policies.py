"""Which masked positions keep their token at a step. A policy is a small frozen class, vectorised over rows.

All see the same `View` and return a `Choice`. The sampler sees to the rest: that a row makes progress, that the last
step of a plan keeps everything, that nothing outside the current block is touched.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.diffusion.tokens import Proposals


@dataclass(frozen=True)
class View:
    """What a policy chooses by. candidates (b, t) bool; count (b,): how many of them should be kept for the plan to
    end in time; rate (b,): the probability with which each should, float64; uniform(): (b, t) float64 in (0, 1), the
    rows' own."""

    candidates: Tensor
    proposals: Proposals
    count: Tensor
    rate: Tensor
    uniform: Callable[[], Tensor]


@dataclass(frozen=True)
class Choice:
    """kept (b, t) bool. log_positions (b,) float64: the log-probability of having chosen these positions where the
    policy draws them; 0 where it does not."""

    kept: Tensor
    log_positions: Tensor


class Policy(ABC):
    """planned: follows a plan of steps; others take as many as they need. revise: positions already filled (but not
    locked) are drawn and judged anew at each step. one: exactly one position a step."""

    name: ClassVar[str]
    planned: ClassVar[bool] = True
    one: ClassVar[bool] = False

    @property
    def revises(self) -> bool:
        return False

    @abstractmethod
    def choose(self, view: View) -> Choice: ...


@dataclass(frozen=True)
class Ancestral(Policy):
    """Each position on its own, at the rate of the time grid: the reverse process itself (MDLM, Sahoo et al. 2024, eq.
    6). Exact as steps grow."""

    name: ClassVar[str] = "ancestral"

    def choose(self, view: View) -> Choice:
        p = view.rate.clamp(0, 1)[:, None]
        kept = (view.uniform() < p) & view.candidates
        log = torch.where(kept, p.log(), torch.where(view.candidates, torch.log1p(-p), 0.0))
        return Choice(kept, log.sum(1))


@dataclass(frozen=True)
class FirstHitting(Policy):
    """One position a step, uniformly: the reverse process in continuous time, exactly (Zheng et al. 2025, "Masked
    diffusion models are secretly time-agnostic", 4); for a model without time the hitting times need no drawing."""

    name: ClassVar[str] = "first-hitting"
    one: ClassVar[bool] = True

    def choose(self, view: View) -> Choice:
        return _uniformly(view, torch.ones_like(view.count))


@dataclass(frozen=True)
class Random(Policy):
    """As many as the plan asks for, uniformly (LLaDA's "random")."""

    name: ClassVar[str] = "random"

    def choose(self, view: View) -> Choice:
        return _uniformly(view, view.count)


@dataclass(frozen=True)
class _Ranked(Policy):
    """The `count` best by a score, Gumbel noise times `noise` added to it (Dream's alg_temp); 0: none. log_positions is
    then that of the order of choice (Plackett and Luce)."""

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"noise is {self.noise}.", "Pass 0 or more.")

    def score(self, p: Proposals) -> Tensor:
        raise NotImplementedError

    def choose(self, view: View) -> Choice:
        score = self.score(view.proposals)
        if not self.noise:
            return Choice(best(grained(score), view.candidates, view.count), torch.zeros_like(view.rate))
        noisy = score / self.noise - (-view.uniform().log()).log()
        kept = best(noisy, view.candidates, view.count)
        order = noisy.masked_fill(~view.candidates, -torch.inf).argsort(1, descending=True)
        weights = (score / self.noise).masked_fill(~view.candidates, -torch.inf).gather(1, order)
        rest = weights.flip(1).logcumsumexp(1).flip(1)  # log of the total weight of this and all later in the order
        log = torch.where(kept.gather(1, order), weights - rest, 0.0).sum(1)
        return Choice(kept, log)


@dataclass(frozen=True)
class Confidence(_Ranked):
    """By the probability of the drawn token (MaskGIT, Chang et al. 2022; LLaDA's low-confidence)."""

    name: ClassVar[str] = "confidence"

    def score(self, p: Proposals) -> Tensor:
        return p.logp


@dataclass(frozen=True)
class Margin(_Ranked):
    """By how far the likeliest token's probability is above the second's (Kim et al. 2025)."""

    name: ClassVar[str] = "margin"

    def score(self, p: Proposals) -> Tensor:
        return p.top.exp() - p.second.exp()


@dataclass(frozen=True)
class Entropy(_Ranked):
    """By least entropy (Dream, Ye et al. 2025)."""

    name: ClassVar[str] = "entropy"

    def score(self, p: Proposals) -> Tensor:
        return -p.entropy


@dataclass(frozen=True)
class Threshold(Policy):
    """All drawn tokens of at least this probability (Fast-dLLM, Wu et al. 2025, alg. 1)."""

    name: ClassVar[str] = "threshold"
    planned: ClassVar[bool] = False
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}.", "Pass a probability above 0.")

    def choose(self, view: View) -> Choice:
        sure = view.proposals.logp.exp() >= self.threshold
        return Choice(sure & view.candidates, torch.zeros_like(view.rate))


@dataclass(frozen=True)
class Factor(Policy):
    """The n surest, n the largest with (n + 1)(1 - the n-th's probability) < factor (Fast-dLLM, theorem 1)."""

    name: ClassVar[str] = "factor"
    planned: ClassVar[bool] = False
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf"):
            raise InputError(f"factor is {self.factor}.", "Pass more than 0.")

    def choose(self, view: View) -> Choice:
        sure = view.proposals.logp.exp().masked_fill(~view.candidates, -1.0)
        order = grained(sure).argsort(dim=1, descending=True, stable=True)
        sorted_sure = sure.gather(1, order)
        n = torch.arange(1, sure.shape[1] + 1, device=sure.device)
        holds = (n + 1) * (1 - sorted_sure) < self.factor
        count = (holds * n).amax(1)
        return Choice(best(grained(sure), view.candidates, count), torch.zeros_like(view.rate))


@dataclass(frozen=True)
class EntropyBound(Policy):
    """The k of least entropy whose entropies, the largest left out, sum to at most `bound` nats (Ben-Hamu et al. 2025,
    "Accelerated sampling from masked diffusion models via entropy bounded unmasking"; transformers'
    EntropyBoundSampler, which revises)."""

    name: ClassVar[str] = "entropy-bound"
    planned: ClassVar[bool] = False
    bound: float = 0.1
    revise: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.bound < float("inf"):
            raise InputError(f"bound is {self.bound}.", "Pass more than 0 nats.")

    @property
    def revises(self) -> bool:
        return self.revise

    def choose(self, view: View) -> Choice:
        entropy = view.proposals.entropy.masked_fill(~view.candidates, torch.inf)
        order = grained(entropy).argsort(dim=1, stable=True)
        low = entropy.gather(1, order)
        fits = low.isfinite() & (low.nan_to_num(posinf=0.0).cumsum(1) - low.nan_to_num(posinf=0.0) <= self.bound)
        return Choice(torch.zeros_like(fits).scatter(1, order, fits), torch.zeros_like(view.rate))


def grained(score: Tensor) -> Tensor:
    """Rounded, so that scores which only rounding tells apart (all positions of an empty canvas are alike to a model
    without a first one) are equal in any batch, and the first of them wins."""
    return (score * 1e4).round()


def best(score: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """(b, t) bool: the `count` (b,) candidates of highest score; of equal ones the first."""
    order = score.masked_fill(~candidates, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)
    return (rank < count[:, None]) & candidates


def _uniformly(view: View, count: Tensor) -> Choice:
    kept = best(view.uniform(), view.candidates, count)
    n, k = view.candidates.sum(1).double(), kept.sum(1).double()
    log = torch.lgamma(k + 1) + torch.lgamma(n - k + 1) - torch.lgamma(n + 1)
    return Choice(kept, log)


POLICIES: dict[str, type[Policy]] = {
    kind.name: kind
    for kind in (Ancestral, FirstHitting, Random, Confidence, Margin, Entropy, Threshold, Factor, EntropyBound)
}


def policy(name: str, **options: Any) -> Policy:
    """By name, e.g. policy("threshold", threshold=0.95). Raises `UnknownName` and, for options, `InputError`."""
    if name not in POLICIES:
        raise UnknownName("policy", name, POLICIES)
    kind = POLICIES[name]
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            takes = f"It takes {', '.join(known)}." if known else "It takes none."
            raise InputError(f"Policy {name} has no option {option!r}.", takes)
    return kind(**options)
