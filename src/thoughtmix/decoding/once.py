"""Rows that draw what was not drawn before: sampling without replacement from a model.

Where a model is nearly certain, free draws give the same continuation again and again. Here the probability of what is
taken already is subtracted from each next token that leads there (Shi et al. 2020, "Incremental sampling without
replacement for sequence models", algorithm 1), so that a row draws from what is left, as if it had drawn until
something new came, at the price of one draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtmix.decoding.sampling import Drawn, Sampler, SamplerBatch, draw, truncated

_PLAIN = Sampler()


@dataclass(frozen=True, slots=True)
class Taken:
    """A continuation that is not to be drawn again, and the probability that each of its tokens had in the draw."""

    token_ids: tuple[int, ...]
    shares: tuple[float, ...]

    def rest(self, at: int) -> float:
        """The probability of the tokens from `at` on, given those before."""
        out = 1.0
        for share in self.shares[at:]:
            out *= share
        return min(out, 1.0)


class Once:
    """What is taken, row by row. taken: of each row of a batch; rows of one number in `group` also avoid each other's
    tokens where they have drawn the same until then and this draw is their last."""

    def __init__(self, taken: Sequence[Sequence[Taken]], group: Sequence[int]) -> None:
        self.taken = [list(some) for some in taken]
        self.group = list(group)

    def draw(
        self,
        logits: Tensor,
        uniform: Tensor,
        sampler: SamplerBatch,
        rows: Sequence[int],
        before: Sequence[Sequence[int]],
        last: Sequence[bool],
    ) -> tuple[Drawn, list[float]]:
        """One token for each of `rows`, whose tokens so far are `before`: `Drawn` under the untouched model, and the
        share that each token had before anything was subtracted. Where nothing is left, the row draws freely."""
        x = truncated(logits, sampler)
        warm = sampler.temperature.clamp(min=1e-6)
        weights = (x.double() / warm[:, None]).softmax(-1)  # (rows, vocabulary)
        left = [self._left(weights[i], row, before[i]) for i, row in enumerate(rows)]
        done: list[Drawn] = []
        for i, row in enumerate(rows):
            for j in range(i) if last[i] else ():
                same = self.group[rows[j]] == self.group[row] and list(before[j]) == list(before[i])
                if same and last[j]:
                    left[i][done[j].ids[0]] = 0
            some = left[i] if bool((left[i] > 0).any()) else weights[i]
            plain = SamplerBatch.of([_PLAIN], logits.device)
            done.append(draw(some.log().float()[None], uniform[i : i + 1], plain))
        ids = torch.cat([one.ids for one in done])
        x = logits.float()
        drawn = Drawn(
            ids, x.gather(1, ids[:, None])[:, 0] - x.logsumexp(-1), torch.cat([one.share for one in done]),
            torch.cat([one.rest for one in done]),
        )  # fmt: skip
        return drawn, weights.gather(1, ids[:, None])[:, 0].tolist()

    def _left(self, weights: Tensor, row: int, before: Sequence[int]) -> Tensor:
        """(vocabulary,) the weights less what is taken."""
        at, out = len(before), weights.clone()
        for one in self.taken[row]:
            if len(one.token_ids) > at and list(one.token_ids[:at]) == list(before):
                token, gone = one.token_ids[at], float(weights[one.token_ids[at]]) * one.rest(at + 1)
                out[token] = max(float(out[token]) - gone, 0.0) if gone < float(weights[token]) * (1 - 1e-9) else 0.0
        return out
