"""Keys and values of a prompt that was read, and of one that is read in pieces.

Axis letters: l layers, h key/value heads, t tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class PromptKV:
    """Keys and values (h, t, d) a layer of a prompt.

    Args:
        keys, values: Of its last tokens, or of all.
        length: Tokens of it.
        behind: Keys and values of its first tokens, part by part, where they lie elsewhere: all are put together only
            when somebody asks for `keys` or `values`.
        room: The memory they lie in, where more may follow them there.
    """

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        length: int,
        room: PromptRoom | None = None,
        behind: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]] = (),
    ) -> None:
        self.length, self.room = length, room
        self._parts: list[Any] = [*behind, (keys, values)]

    @property
    def keys(self) -> list[Tensor]:
        return self._whole()[0]

    @property
    def values(self) -> list[Tensor]:
        return self._whole()[1]

    def _whole(self) -> tuple[list[Tensor], list[Tensor]]:
        if len(self._parts) > 1:
            both = zip(*self._parts, strict=True)
            self._parts = [tuple([torch.cat(layer, 1) for layer in zip(*some, strict=True)] for some in both)]
        made: tuple[list[Tensor], list[Tensor]] = self._parts[0]
        return made

    def copy_to(self, keys: Tensor, values: Tensor) -> None:
        """Into the first tokens of (l, h, t, d) each."""
        for some, out in zip(zip(*self._parts, strict=True), (keys, values), strict=True):
            at = 0
            for part in some:
                end = at + part[0].shape[1]
                torch.stack(tuple(part), out=out[:, :, at:end])
                at = end


class PromptRoom:
    """Memory for a prompt that is read in pieces: what was read is not copied at every piece.

    Args:
        layers, h, capacity, d: Shape of the keys, and of the values.
    """

    def __init__(self, layers: int, h: int, capacity: int, d: int) -> None:
        self._both = torch.empty(2, layers, h, capacity, d)
        self._filled = 0

    @classmethod
    def of(cls, past: PromptKV | None, shape: tuple[int, int, int], length: int, capacity: int) -> PromptRoom:
        """Room for `length` tokens that begins with what was read. The past's own, if nothing else follows it there.

        Args:
            shape: Layers, h, d.
            capacity: Tokens of a new one, at least.
        """
        before = 0 if past is None else past.length
        room = None if past is None else past.room
        if room is None or room._filled != before or room._both.shape[3] < length:
            layers, h, d = shape
            room = cls(layers, h, max(length, capacity), d)
            if past is not None and before:
                past.copy_to(*room._both)
        room._filled = length
        return room

    def prompt(self) -> PromptKV:
        """All that is filled; what follows later changes nothing in it."""
        keys, values = self._both[:, :, :, : self._filled].unbind(0)
        return PromptKV(list(keys.unbind(0)), list(values.unbind(0)), self._filled, self)
