"""Rows that learn from each other where they have been: the logits adjusted, step by step, by one distiller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thoughtmix.engine.row_state import NoRowState
from thoughtmix.engine.sampling import Candidates, SamplingTensors, candidates
from thoughtmix.explore.distiller import Distiller, rms
from thoughtmix.explore.head import OutputHead

CANDIDATES = 64
"""Most tokens a row whose logits are adjusted: the head is not applied to a second state for the whole vocabulary."""


class ExploringRows(NoRowState):
    """The rows of one set, through the model as it is (Zeng et al. 2026): a token's logit becomes

        (1 + beta) logit - beta distilled,

    distilled being the head's logit by the deep state that the distiller expects here. Where things go on as they did
    wherever the set has been, nothing changes; what is said here more than there gains. The rows share the distiller,
    and so each moves the others. Adjusted are only tokens that survive a row's truncations, by the model's own logits,
    and of them the 64 likeliest; together they stay as likely as they were.

    Args:
        head: Of the model.
        rows: How many.
        beta: 0 changes nothing.
        shallow_layer, width, ridge, seed: See `LogitsAdjuster` and `Distiller`.

    `novelty[i]` is (the sum of row i's errors, their count): an error is the mean square of t less what was expected,
    whose mean square is 1.
    """

    def __init__(
        self, head: OutputHead, rows: int, beta: float, shallow_layer: int, width: int, ridge: float, seed: int
    ) -> None:
        self.head, self.beta, self.shallow_layer = head, beta, shallow_layer
        self.width, self.ridge, self.seed = width, ridge, seed
        self.distiller: Distiller | None = None
        self.rows = list(range(rows))  # who they are that are left
        self.novelty = [(0.0, 0)] * rows

    def reorder(self, order: Sequence[int]) -> None:
        self.rows = [self.rows[old] for old in order]

    def mean_novelty(self) -> list[float | None]:
        """Of each row; None for one that ended before anything was expected of it."""
        return [total / count if count else None for total, count in self.novelty]

    @torch.no_grad()
    def adjust(self, shallow: Tensor, deep: Tensor, logits: Tensor, sampling: SamplingTensors) -> Candidates:
        """See `LogitsAdjuster`. The step's own states are learnt only afterwards."""
        if self.distiller is None:
            widths = shallow.shape[1], deep.shape[1]
            self.distiller = Distiller(*widths, self.width, self.ridge, self.seed, shallow.device)
        scale = rms(deep)
        features, direction = self.distiller.features(shallow), deep / scale
        found = candidates(logits, sampling, CANDIDATES)
        if self.distiller.seen:
            expected = self.distiller.predict(features)
            self._note((direction - expected).square().mean(-1).tolist())
            distilled = self.head.logits(found.ids, expected / rms(expected) * scale)
            moved = found.logits + self.beta * (found.logits - distilled)
            found = replace(found, logits=_as_likely(moved, found.logits, sampling.temperature))
        self.distiller.learn(features, direction)
        return found

    def _note(self, errors: Sequence[float]) -> None:
        for row, error in zip(self.rows, errors, strict=True):
            total, count = self.novelty[row]
            self.novelty[row] = (total + error, count + 1)


def _as_likely(logits: Tensor, before: Tensor, temperature: Tensor) -> Tensor:
    """logits (rows, k), each row moved so that its tokens together weigh what they did `before`, at its temperature;
    -inf stays. Greedy rows, whose tokens are ties, stay as they were."""
    warm = torch.where(temperature > 0, temperature, 1.0)[:, None]
    after, was = (x.double() / warm for x in (logits, before))
    moved = (after - after.logsumexp(1, keepdim=True) + was.logsumexp(1, keepdim=True)) * warm
    return torch.where(temperature[:, None] > 0, moved.float(), before)
