"""Keys and values of a prompt that was read, and of one that is read in pieces.

Axis letters: l layers, h key/value heads, t tokens, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Layers = list[Tensor]
"""A tensor (h, t, d) a layer."""


class PromptKV:
    """Keys and values of a prompt.

    Args:
        keys, values: Of its last tokens, or of all.
        length: Tokens of it.
        buffer: The memory they lie in, where more may follow them there.
        behind: Keys and values of its first tokens, part by part, where they lie elsewhere: all are put together only
            when somebody asks for `keys` or `values`.
        lasting: Whether the first part will stay as it is: others begin alike and share it.
    """

    def __init__(
        self,
        keys: Layers,
        values: Layers,
        length: int,
        buffer: PromptBuffer | None = None,
        behind: Sequence[tuple[Layers, Layers]] = (),
        lasting: bool = False,
    ) -> None:
        self.length, self.buffer, self._lasting = length, buffer, lasting
        self._parts: list[tuple[Layers, Layers]] = [*behind, (keys, values)]

    @property
    def keys(self) -> Layers:
        return self._whole()[0]

    @property
    def values(self) -> Layers:
        return self._whole()[1]

    def _whole(self) -> tuple[Layers, Layers]:
        if len(self._parts) > 1:
            self._parts, self._lasting = [_joined(self._parts)], False
        return self._parts[0]

    @property
    def like(self) -> tuple[Layers, Layers]:
        """Some of its keys and values, which say of what shape they are."""
        return self._parts[-1]

    @property
    def root(self) -> tuple[Layers, Layers] | None:
        """Of its first tokens, where they may be left."""
        return self._parts[0] if self._lasting else None

    @property
    def known(self) -> int:
        """Tokens of the root."""
        return int(self._parts[0][0][0].shape[1]) if self._lasting else 0

    def rest(self) -> tuple[Layers, Layers]:
        """Of those behind the root."""
        some = self._parts[1:] if self._lasting else self._parts
        return _joined(some) if some else self._cut(0, 0)

    def _cut(self, start: int, end: int) -> tuple[Layers, Layers]:
        keys, values = self._parts[-1]
        return [x[:, start:end] for x in keys], [x[:, start:end] for x in values]

    def copied(self, start: int, end: int) -> tuple[Layers, Layers]:
        """Copies of the keys and values from one token to another: a view would hold all of them."""
        before = self.length - int(self._parts[-1][0][0].shape[1])
        if start < before:
            keys, values = self._whole()
            return [x[:, start:end].clone() for x in keys], [x[:, start:end].clone() for x in values]
        cut_keys, cut_values = self._cut(start - before, end - before)
        return [x.clone() for x in cut_keys], [x.clone() for x in cut_values]

    def copy_to(self, keys: Tensor, values: Tensor, without_root: bool = False) -> None:
        """Into the first tokens of (l, h, t, d) each."""
        at = 0
        for part in self._parts[1:] if without_root and self._lasting else self._parts:
            end = at + part[0][0].shape[1]
            torch.stack(tuple(part[0]), out=keys[:, :, at:end])
            torch.stack(tuple(part[1]), out=values[:, :, at:end])
            at = end


def _joined(parts: Sequence[tuple[Layers, Layers]]) -> tuple[Layers, Layers]:
    if len(parts) == 1:
        return parts[0]
    keys, values = ([torch.cat(layer, 1) for layer in zip(*some, strict=True)] for some in zip(*parts, strict=True))
    return keys, values


class PromptBuffer:
    """Memory for a prompt that is read in pieces: what was read is not copied at every piece.

    Args:
        layers, h, capacity, d: Shape of the keys, and of the values.
        root: Keys and values of its first tokens, which stay where they are.
    """

    def __init__(self, layers: int, h: int, capacity: int, d: int, root: tuple[Layers, Layers] | None = None) -> None:
        self._root, self._known = root, 0 if root is None else int(root[0][0].shape[1])
        self._both = torch.empty(2, layers, h, max(0, capacity - self._known), d)
        self._filled = 0

    @classmethod
    def of(cls, past: PromptKV | None, shape: tuple[int, int, int], length: int, capacity: int) -> PromptBuffer:
        """Room for `length` tokens that begins with what was read. The past's own, if nothing else follows it there.

        Args:
            shape: Layers, h, d.
            capacity: Tokens of a new one, at least.
        """
        before = 0 if past is None else past.length
        buffer = None if past is None else past.buffer
        if buffer is None or buffer._filled != before or buffer._known + buffer._both.shape[3] < length:
            layers, h, d = shape
            buffer = cls(layers, h, max(length, capacity), d, None if past is None else past.root)
            if past is not None and before:
                keys, values = buffer._both
                past.copy_to(keys, values, without_root=True)
        buffer._filled = length
        return buffer

    def prompt(self) -> PromptKV:
        """All that is filled; what follows later changes nothing in it."""
        keys, values = self._both[:, :, :, : self._filled - self._known].unbind(0)
        behind = [] if self._root is None else [self._root]
        return PromptKV(list(keys.unbind(0)), list(values.unbind(0)), self._filled, self, behind, bool(behind))
