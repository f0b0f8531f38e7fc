"""Beginnings that prompts have in common, read once. Fused path only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from thoughtmix.engine.kv_cache import Prompt


class Beginnings:
    """Keys and values of the last prompt that was read, for the next that begins alike: a chat template's system
    prompt, the same for everybody, is read once, and so is what the prompts of one call have in common."""

    most, least = 512, 8  # tokens that are kept; tokens below which sharing is not worth it

    def __init__(self) -> None:
        self._weights: Any = None
        self._ids: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def of(self, weights: Any, ids: Sequence[int]) -> Prompt | None:
        """What is known of a prompt, at most all but its last token."""
        if weights is not self._weights:
            return None
        same = 0
        for a, b in zip(ids[:-1], self._ids, strict=False):
            if a != b:
                break
            same += 1
        if same < self.least:
            return None
        return Prompt([k[:, :same] for k in self._keys], [v[:, :same] for v in self._values], same, 0)

    def keep(self, weights: Any, ids: Sequence[int], read: Prompt) -> None:
        self._weights, self._ids = weights, list(ids[: self.most])
        whole = len(ids) <= self.most  # else a copy, so that the rest can go
        self._keys, self._values = (
            list(kept) if whole else [x[:, : self.most].clone() for x in kept] for kept in (read.keys, read.values)
        )
