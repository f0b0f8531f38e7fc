"""Rows that draw what was not drawn before: sampling without replacement from a model.

Where a model is nearly certain, free draws give the same continuation again and again. Here the probability of what is
taken already is subtracted from each next token that leads there (Shi et al. 2020, "Incremental sampling without
replacement for sequence models", algorithm 1), so that a row draws from what is left, as if it had drawn until
something new came, at the price of one draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtmix.engine.sampling import SamplingTensors, draw, truncated


@dataclass(frozen=True, slots=True)
class Excluded:
    """A continuation that is not to be drawn again, and the probability that each of its tokens had in the draw."""

    token_ids: tuple[int, ...]
    shares: tuple[float, ...]

    def rest(self, at: int) -> float:
        """The probability of the tokens from `at` on, given those before."""
        return min(math.prod(self.shares[at:]), 1.0)


class WithoutReplacement:
    """What is taken, row by row. taken: of each row of a batch; rows of one number in `group` also avoid each other's
    tokens where they have drawn the same until then and this draw is their last."""

    def __init__(self, taken: Sequence[Sequence[Excluded]], group: Sequence[int]) -> None:
        self.taken, self.group = [list(some) for some in taken], list(group)

    def draw(
        self,
        logits: Tensor,
        uniform: Tensor,
        sampler: SamplingTensors,
        rows: Sequence[int],
        before: Sequence[Sequence[int]],
        last: Sequence[bool],
        allowed: Tensor | None = None,
    ) -> tuple[list[int], list[float], list[float]]:
        """One token for each of `rows`, whose tokens so far are `before`: ids, log-probabilities under the untouched
        model, and the share that each had in the draw before anything was subtracted. Only rows that have something to
        avoid are drawn apart. Where nothing is left for one, it draws freely. allowed: see `sampling.draw`."""
        free = draw(logits, uniform, sampler, allowed)
        ids, logprobs, shares = free.ids.tolist(), free.logprobs.tolist(), free.share.tolist()
        drawn: dict[tuple[int, ...], list[int]] = {}
        for i, row in enumerate(rows):
            mine = drawn.setdefault((self.group[row], *before[i]), []) if last[i] else []
            gone = self._gone(row, before[i], mine)
            if gone:
                at = slice(i, i + 1)
                open = None if allowed is None else allowed[at]
                got = _without(logits[at], float(uniform[i]), sampler.rows(at), gone, open)
                ids[i], logprobs[i], shares[i] = got or (ids[i], logprobs[i], shares[i])
            mine.append(ids[i])
        return ids, logprobs, shares

    def _gone(self, row: int, before: Sequence[int], mine: Sequence[int]) -> dict[int, float]:
        """Of next tokens, the share of what follows them that is taken."""
        at, out = len(before), dict.fromkeys(mine, 1.0)
        for one in self.taken[row]:
            if len(one.token_ids) > at and list(one.token_ids[:at]) == list(before):
                out[one.token_ids[at]] = out.get(one.token_ids[at], 0.0) + one.rest(at + 1)
        return out


def _without(
    logits: Tensor, uniform: float, sampler: SamplingTensors, gone: Mapping[int, float], allowed: Tensor | None
) -> tuple[int, float, float] | None:
    """A token of one row (1, vocabulary), drawn by the inverse CDF in vocabulary order over what is left; its
    log-probability and its whole share. None: nothing is left."""
    x = truncated(logits if allowed is None else logits.masked_fill(~allowed, -torch.inf), sampler)[0]
    stay = torch.isfinite(x).nonzero()[:, 0]
    warm = float(sampler.temperature[0]) or 1.0  # a greedy row has its maxima alone
    weights = (x[stay].double() / warm).softmax(-1)
    some = stay.tolist()
    left = weights * torch.tensor([max(1 - gone.get(t, 0.0), 0.0) for t in some], device=x.device).double()
    left[left < weights * 1e-9] = 0.0  # rounding of what is wholly taken
    cdf = left.cumsum(0)
    if not float(cdf[-1]) > 0:
        return None
    at = int(torch.searchsorted(cdf, uniform * cdf[-1], right=True))
    at = min(at, int(left.nonzero()[-1, 0]))
    whole = logits[0].float()
    return some[at], float(whole[some[at]] - whole.logsumexp(-1)), float(weights[at])
