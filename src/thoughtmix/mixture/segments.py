"""Which segment each token of a forward belongs to, and what lies before it: found once a forward, for all layers.

Axis letters here: b rows, t tokens of this forward, g segments that these tokens can touch, d width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thoughtmix.mixture.state import Rows


@dataclass(slots=True)
class Segments:
    ids: Tensor  # (b, g) int64: 0 the prompt, 1, 2, ... of the continuation
    local: Tensor  # (b, t) int64 in 0..g-1: which of `ids` a token belongs to
    columns: Tensor  # (b, g): the column of this forward at which the segment starts; negative: before this forward
    from_prior: Tensor  # (b, g) bool: nothing lies before the segment
    creativity: Tensor  # (b, g) float32: the row's; 0 in the prompt
    positions: Tensor  # (b, t)
    real: Tensor | None  # (b, t) float32, 0 where padded; None: nowhere
    settled: bool  # every row's last token is in a segment that will not end
    unit: bool  # creativity is 0 or 1 everywhere
    each: bool = False  # every token is a segment of its own: g = t

    @classmethod
    def of(cls, rows: Rows, positions: Tensor, length: int, real: Tensor | None) -> Segments:
        """positions (b, t) of real tokens; length: config.segment_length; real: (b, t), 1 real and 0 padding."""
        b, t = positions.shape
        prompt = rows.prompt_lengths[:, None]
        device = positions.device
        first = torch.zeros(b, dtype=torch.int64, device=device) if real is None else real.argmax(1)  # real column
        begin = positions.gather(1, first[:, None])  # (b, 1) its position

        def segment(at: Tensor) -> Tensor:
            inside = (at - prompt).clamp(min=0)
            return torch.where(at < prompt, 0, 1 + (inside // length if length else torch.zeros_like(inside)))

        token = segment(torch.maximum(positions, begin))
        base = segment(begin)  # (b, 1)
        g = 1 if t == 1 else 2 + (t // length + 1 if length else 0)
        ids = base + torch.arange(g, device=device)
        start = torch.where(ids == 0, 0, prompt + (ids - 1) * length)
        columns = (first[:, None] + start - begin).clamp(max=t - 1)
        last = positions[:, -1:]
        settled = length == 0 and bool((last >= prompt - 1).all())
        creativity = rows.creativity[:, None] * (ids > 0)
        unit = _unit(creativity)
        return cls(ids, token - base, columns, start == 0, creativity, positions, real, settled, unit)

    def take(self, x: Tensor) -> Tensor:
        """(b, g, ...) values of segments -> (b, t, ...) of tokens."""
        if self.each:
            return x
        index = self.local.view(*self.local.shape, *(1,) * (x.ndim - 2)).expand(*self.local.shape, *x.shape[2:])
        return x.gather(1, index)

    def scaled(self, by: float) -> Segments:
        """With the creativity of all rows multiplied: a layer's own."""
        creativity = self.creativity * by
        return replace(self, creativity=creativity, unit=_unit(creativity))

    def by_token(self) -> Segments:
        """The same with values for each token instead of each segment."""
        return replace(self, creativity=self.take(self.creativity), each=True)

    def share(self) -> Tensor:
        """(b, g): each segment's share of all real tokens."""
        if self.each:
            real = torch.ones_like(self.creativity) if self.real is None else self.real
            return real / real.sum().clamp(min=1)
        one = torch.ones_like(self.local, dtype=torch.float32) if self.real is None else self.real
        count = torch.zeros(self.ids.shape, device=one.device).scatter_add_(1, self.local, one)
        return count / count.sum().clamp(min=1)


def _unit(creativity: Tensor) -> bool:
    return bool(((creativity == 0) | (creativity == 1)).all())
