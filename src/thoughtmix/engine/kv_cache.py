"""Keys and values of many rows that share prompts: each prompt's once, each row's own tokens beside them.

Axis letters: l layers, b rows, h key/value heads, g query heads a key/value head, t prompt tokens, s own tokens,
d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Prompt:
    """One prompt and the contiguous block of rows that continue it."""

    keys: list[Tensor]  # a layer: (h, t, d)
    values: list[Tensor]
    length: int
    rows: int


class SharedPrefix:
    """The state of a batch: `prompts`, and preallocated keys and values of (l, b, h, capacity, d).

    Nothing of a prompt is copied when rows are added, stepped or dropped; a dropped row costs one row copied
    (the last of its prompt moves into the gap). All layers of a model have the same h and d here.
    """

    def __init__(self, prompts: list[Prompt], capacity: int) -> None:
        self.prompts = prompts
        self.rows = sum(p.rows for p in prompts)
        self.length = 0  # own tokens stored so far, equal in all rows
        k, v = prompts[0].keys[0], prompts[0].values[0]
        layers = len(prompts[0].keys)
        # empty, not zeros: memory that no token has reached yet stays untouched by the system
        self._keys = k.new_empty((layers, self.rows, k.shape[0], capacity, k.shape[2]))
        self._values = v.new_empty((layers, self.rows, v.shape[0], capacity, v.shape[2]))
        self._view()

    def _view(self) -> None:
        """Per-layer views for the coming token, made once a step: at one row, slicing costs as much as attending."""
        own = self.length + 1
        keys, values = self._keys[:, : self.rows], self._values[:, : self.rows]
        if self.length < self._keys.shape[3]:
            at = self.length
            self._slots = list(zip(keys[..., at, :].unbind(0), values[..., at, :].unbind(0), strict=True))
        self._own = list(zip(keys[..., :own, :].unbind(0), values[..., :own, :].unbind(0), strict=True))

    def positions(self, device: torch.device) -> Tensor:
        """(b,) the position of the token that each row reads next."""
        counts = torch.tensor([p.rows for p in self.prompts], device=device)
        starts = torch.tensor([p.length for p in self.prompts], device=device)
        return torch.repeat_interleave(starts + self.length, counts)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put the newest token's keys and values (b, h, d) behind the others. `advance` once all layers did."""
        slot_keys, slot_values = self._slots[layer]
        slot_keys.copy_(keys)
        slot_values.copy_(values)

    def begin(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (b, h, t, d) of tokens that each row read for itself before all others. `begun` once all
        layers did."""
        t = keys.shape[2]
        self._keys[layer, :, :, :t].copy_(keys)
        self._values[layer, :, :, :t].copy_(values)

    def begun(self, tokens: int) -> None:
        self.length = tokens
        self._view()

    def advance(self) -> None:
        self.length += 1
        self._view()

    def own(self, row: int) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values (l, h, s, d) of a row's own tokens."""
        return self._keys[:, row, :, : self.length].clone(), self._values[:, row, :, : self.length].clone()

    def drop(self, gone: list[int]) -> list[int]:
        """Remove rows. Returns the old index of every remaining row, in its new order."""
        order = list(range(self.rows))
        for row in sorted(gone, reverse=True):
            self._drop_one(row, order)
        self._view()
        return order

    def _drop_one(self, row: int, order: list[int]) -> None:
        """Close the gap at `row`: the last row of its prompt moves there, the last row of the next prompt moves
        to where that one was, and so on, so that each prompt's rows stay together."""
        gap, start = -1, 0
        for prompt in self.prompts:
            end = start + prompt.rows
            if gap < 0 and row < end:
                gap = row
                prompt.rows -= 1
            if gap >= 0 and end > start:
                last = end - 1
                if last != gap:
                    for buffer in (self._keys, self._values):
                        buffer[:, gap, :, : self.length] = buffer[:, last, :, : self.length]
                    order[gap] = order[last]
                gap = last
            start = end
        order.pop()
        self.rows -= 1

    def attend(self, layer: int, query: Tensor, window: int | None = None, softcap: float | None = None) -> Tensor:
        """Attention of each row's newest token, already stored, over [its prompt | its own tokens]: one softmax.

        query: (b, h, g, d), already scaled. window: how many newest positions are visible (sliding attention).
        softcap: Gemma 2's c tanh(x / c). Returns (b, h, g, d).
        The prompt's part is one matrix product for all its rows: (h, b g, d) x (h, d, t).
        """
        keys, values = self._own[layer]  # (b, h, s, d)
        own = self.length + 1
        if window is not None and own > window:  # older own tokens are out of sight
            keys, values = keys[:, :, own - window :], values[:, :, own - window :]
        own_scores = _product(query, keys.mT)  # (b, h, g, s)
        if len(self.prompts) == 1:
            return self._mix(self.prompts[0], layer, query, own_scores, values, window, softcap)
        parts, row = [], 0
        for prompt in self.prompts:
            if prompt.rows:
                part = slice(row, row + prompt.rows)
                parts.append(self._mix(prompt, layer, query[part], own_scores[part], values[part], window, softcap))
            row += prompt.rows
        return torch.cat(parts)

    def _mix(
        self,
        prompt: Prompt,
        layer: int,
        query: Tensor,
        own_scores: Tensor,
        own_values: Tensor,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """`attend` for the rows of one prompt."""
        b, h, g, d = query.shape
        keys, values = prompt.keys[layer], prompt.values[layer]  # (h, t, d)
        if window is not None:
            first = min(prompt.length, max(0, prompt.length + self.length + 1 - window))
            keys, values = keys[:, first:], values[:, first:]
        t = keys.shape[1]
        shared = torch.bmm(query.transpose(0, 1).reshape(h, b * g, d), keys.mT)  # (h, b g, t)
        scores = torch.cat([shared.view(h, b, g, t), own_scores.transpose(0, 1)], -1)  # (h, b, g, t + s)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        weight = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
        from_prompt = torch.bmm(weight.view(h, b * g, -1)[..., :t], values).view(h, b, g, d).transpose(0, 1)
        return _product(weight[..., t:].transpose(0, 1), own_values).add_(from_prompt)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y of (b, h, ., .) as one batched product of b h small ones (`matmul` reshapes its way there slowly)."""
    b, h = x.shape[:2]
    return torch.bmm(x.reshape(b * h, *x.shape[2:]), y.reshape(b * h, *y.shape[2:])).view(b, h, x.shape[2], y.shape[3])
