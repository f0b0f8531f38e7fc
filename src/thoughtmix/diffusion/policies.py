"""What a step decides: a token drawn for each masked position, and which of these are kept.

A policy says the second. It is a small frozen class, vectorised over rows. The sampler sees to the rest: that a row
makes progress, that the last step keeps everything, that nothing outside the current block is touched.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, NumericsError, UnknownName

_ELEMENTS = 2**22  # of float64 at once: 32 MB


@dataclass(frozen=True)
class Proposals:
    """A token drawn for each candidate position, and how sure the model is there; (b, t) each, 0 elsewhere."""

    drawn: Tensor
    logp: Tensor  # its log-probability under the model at temperature 1, nats
    logq: Tensor  # the same under the distribution that it was drawn from
    top: Tensor  # the two largest log-probabilities at temperature 1
    second: Tensor
    entropy: Tensor  # nats, at temperature 1


def propose(
    logits: Tensor, candidates: Tensor, uniform: Tensor, temperature: Tensor, top_p: float = 1.0, min_p: float = 0.0
) -> Proposals:
    """Draw a token for each candidate position.

    The draw is the inverse distribution function in float64: exact where Gumbel noise in float32 would lower the
    temperature (Zheng et al. 2025), and one uniform number a position instead of v.

    Args:
        logits: (b, t, v), -inf is forbidden.
        candidates: (b, t) bool.
        uniform: (b, t) numbers in (0, 1).
        temperature: (b,), 0 takes the likeliest token.
        top_p, min_p: Truncation of the draws.

    Raises:
        NumericsError: For logits that are NaN or infinite.
    """
    b, t, v = logits.shape
    row, place = candidates.nonzero(as_tuple=True)
    out = torch.zeros((6, b, t), dtype=torch.float64, device=logits.device)
    size = max(1, _ELEMENTS // v)
    for at in range(0, len(row), size):
        r, p = row[at : at + size], place[at : at + size]
        out[:, r, p] = _draw(logits[r, p].double(), uniform[r, p], temperature[r], top_p, min_p)
    return Proposals(out[0].long(), *out[1:].unbind(0))


def _draw(x: Tensor, uniform: Tensor, temperature: Tensor, top_p: float, min_p: float) -> Tensor:
    """x (n, v) float64 -> (6, n), the fields of `Proposals`."""
    logp = x - x.logsumexp(-1, keepdim=True)
    two, ids = logp.topk(min(2, x.shape[1]), -1)
    if not bool(two[:, 0].isfinite().all()):
        raise NumericsError("The model produced NaN or infinite logits.", "Try --dtype float32, or check the weights.")
    p = logp.exp()
    entropy = torch.special.entr(p).sum(-1)
    warm = temperature > 0
    q = p
    if not bool((temperature == 1).all()):
        # The largest is taken off before the division, so that at any temperature above 0 it is 0 and not -inf.
        q = ((logp - two[:, :1]) / torch.where(warm, temperature, 1.0)[:, None]).softmax(-1)
    if min_p > 0:
        q = q * (q >= min_p * q.amax(-1, keepdim=True))
    if top_p < 1:
        q = _nucleus(q, top_p)
    cdf = q.cumsum(-1)
    total = cdf[:, -1:]
    # Rounding may leave the target at or past the end: stay on the last token with any weight.
    drawn = torch.minimum((cdf <= uniform[:, None] * total).sum(-1), (cdf < total).sum(-1))
    drawn = torch.where(warm, drawn, ids[:, 0])
    logq = torch.where(warm, (q.gather(1, drawn[:, None]) / total)[:, 0].log(), 0.0)
    second = two[:, 1] if two.shape[1] > 1 else torch.full_like(two[:, 0], -torch.inf)
    return torch.stack([drawn.double(), logp.gather(1, drawn[:, None])[:, 0], logq, two[:, 0], second, entropy])


def _nucleus(q: Tensor, top_p: float) -> Tensor:
    """The smallest set of the likeliest with at least this mass (Holtzman et al. 2020), not renormalised."""
    sorted_q, order = q.sort(dim=-1, descending=True, stable=True)
    kept = sorted_q.cumsum(-1) - sorted_q < top_p * q.sum(-1, keepdim=True)
    return q * torch.zeros_like(kept).scatter(-1, order, kept)


@dataclass(frozen=True)
class PolicyInputs:
    """What a policy selects by."""

    candidates: Tensor  # (b, t) bool: positions that may be kept
    proposals: Proposals
    count: Tensor  # (b,): how many should be kept for the row to end in its number of steps
    rate: Tensor  # (b,) float64: the probability with which each should be kept
    uniform: Callable[[], Tensor]  # gives (b, t) float64 in (0, 1), the rows' own


class Policy(ABC):
    """Which masked positions keep their token at a step.

    fixed_steps: it takes a given number of steps; others take as many as they need. one_per_step: it keeps exactly one
    position a step. revises: positions already filled (but not locked) are drawn and judged anew at each step.
    """

    name: ClassVar[str]
    fixed_steps: ClassVar[bool] = True
    one_per_step: ClassVar[bool] = False

    @property
    def revises(self) -> bool:
        return False

    @abstractmethod
    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        """(b, t) bool, some of the candidates."""
        ...


@dataclass(frozen=True)
class Ancestral(Policy):
    """Each position on its own, at the rate of the time grid: the reverse process itself (MDLM, Sahoo et al. 2024, eq.
    6). Exact as steps grow."""

    name: ClassVar[str] = "ancestral"

    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        return (inputs.uniform() < inputs.rate.clamp(0, 1)[:, None]) & inputs.candidates


@dataclass(frozen=True)
class FirstHitting(Policy):
    """One position a step, uniformly: the reverse process in continuous time, exactly (Zheng et al. 2025, "Masked
    diffusion models are secretly time-agnostic", 4); for a model without time the hitting times need no drawing."""

    name: ClassVar[str] = "first-hitting"
    one_per_step: ClassVar[bool] = True

    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        return top_positions(inputs.uniform(), inputs.candidates, torch.ones_like(inputs.count))


@dataclass(frozen=True)
class Random(Policy):
    """As many as should be kept, uniformly (LLaDA's "random")."""

    name: ClassVar[str] = "random"

    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        return top_positions(inputs.uniform(), inputs.candidates, inputs.count)


@dataclass(frozen=True)
class _Ranked(Policy):
    """As many as should be kept, the best by a score; Gumbel noise times `noise` is added to it (Dream's alg_temp)."""

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < float("inf"):
            raise InputError(f"noise is {self.noise}.", "Pass 0 or more.")

    def score(self, p: Proposals) -> Tensor:
        raise NotImplementedError

    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        score = self.score(inputs.proposals)
        score = score / self.noise - (-inputs.uniform().log()).log() if self.noise else rounded(score)
        return top_positions(score, inputs.candidates, inputs.count)


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
    fixed_steps: ClassVar[bool] = False
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}.", "Pass a probability above 0.")

    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        return (inputs.proposals.logp.exp() >= self.threshold) & inputs.candidates


@dataclass(frozen=True)
class Factor(Policy):
    """The n surest, n the largest with (n + 1)(1 - the n-th's probability) < factor (Fast-dLLM, theorem 1)."""

    name: ClassVar[str] = "factor"
    fixed_steps: ClassVar[bool] = False
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < float("inf"):
            raise InputError(f"factor is {self.factor}.", "Pass more than 0.")

    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        sure = inputs.proposals.logp.exp().masked_fill(~inputs.candidates, -1.0)
        order = rounded(sure).argsort(dim=1, descending=True, stable=True)
        n = torch.arange(1, sure.shape[1] + 1, device=sure.device)
        holds = (n + 1) * (1 - sure.gather(1, order)) < self.factor
        return top_positions(rounded(sure), inputs.candidates, (holds * n).amax(1))


@dataclass(frozen=True)
class EntropyBound(Policy):
    """The k of least entropy whose entropies, the largest left out, sum to at most `bound` nats (Ben-Hamu et al. 2025,
    "Accelerated sampling from masked diffusion models via entropy bounded unmasking"; transformers'
    EntropyBoundSampler, which revises)."""

    name: ClassVar[str] = "entropy-bound"
    fixed_steps: ClassVar[bool] = False
    bound: float = 0.1
    revise: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.bound < float("inf"):
            raise InputError(f"bound is {self.bound}.", "Pass more than 0 nats.")

    @property
    def revises(self) -> bool:
        return self.revise

    def select_positions(self, inputs: PolicyInputs) -> Tensor:
        entropy = inputs.proposals.entropy.masked_fill(~inputs.candidates, torch.inf)
        order = rounded(entropy).argsort(dim=1, stable=True)
        low = entropy.gather(1, order)
        finite = low.nan_to_num(posinf=0.0)
        fits = low.isfinite() & (finite.cumsum(1) - finite <= self.bound)
        return torch.zeros_like(fits).scatter(1, order, fits)


def rounded(score: Tensor) -> Tensor:
    """Scores that only rounding tells apart are made equal in any batch, and the first of them wins.

    To a model without a first position all positions of an empty text are alike.
    """
    return (score * 1e4).round()


def top_positions(score: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """(b, t) bool: the `count` (b,) candidates of highest score; of equal ones the first."""
    order = score.masked_fill(~candidates, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return (order.argsort(1) < count[:, None]) & candidates


POLICIES: dict[str, type[Policy]] = {
    kind.name: kind
    for kind in (Ancestral, FirstHitting, Random, Confidence, Margin, Entropy, Threshold, Factor, EntropyBound)
}


def make_policy(name: str, **options: Any) -> Policy:
    """The policy of a name, e.g. make_policy("threshold", threshold=0.95).

    Raises:
        UnknownName: When there is none of this name.
        InputError: For options that it does not have, or values out of range.
    """
    if name not in POLICIES:
        raise UnknownName("policy", name, POLICIES)
    kind = POLICIES[name]
    known = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            takes = f"It takes {', '.join(known)}." if known else "It takes none."
            raise InputError(f"Policy {name} has no option {option!r}.", takes)
    return kind(**options)
