"""Chunked prefill: read the prompts of a job in pieces, so that rows that run already wait for a bounded number of
tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import KVPath
from thoughtmix.engine.kv_cache import PromptKV
from thoughtmix.engine.prefix_cache import PrefixCache


class ChunkedPrefill:
    """Prompts on their way into keys and values. cache: how others began."""

    def __init__(self, path: KVPath, prompts: Sequence[Sequence[int]], cache: PrefixCache | None = None) -> None:
        self.path, self.prompts, self.cache = path, [list(p) for p in prompts], cache or PrefixCache()
        self.read: list[PromptKV] = []
        self.logits: list[Tensor] = []  # (vocabulary,) after each prompt
        self.computed = 0  # tokens that went through the model
        self._at = 0  # tokens of the current prompt that are read
        self._part: PromptKV | None = None  # their keys and values

    @property
    def done(self) -> bool:
        return len(self.read) == len(self.prompts)

    @torch.no_grad()
    def advance(self, tokens: int) -> int:
        """Read up to so many tokens more; how many were read."""
        left, path = tokens, self.path
        while left > 0 and not self.done:
            ids = self.prompts[len(self.read)]
            if self._at == 0 and path.reuses:
                known = self.cache.longest(ids, path.home)
                self._part = known.prompt() if known else None
                self._at = known.length if known else 0
            piece = ids[self._at : self._at + left]
            logits, self._part = path.prefill(piece, self._part)
            left -= len(piece)
            self.computed += len(piece)
            self._at += len(piece)
            if self._at == len(ids):
                if path.reuses:
                    self.cache.keep(ids, self._part, path.home)
                self.logits.append(logits)
                self.read.append(self._part)
                self._at, self._part = 0, None
        return tokens - left

    def by_row(self, counts: Sequence[int]) -> Tensor:
        """The logits (rows, vocabulary) of each row's first token, of so many rows a prompt."""
        logits = torch.stack(self.logits)
        return logits.repeat_interleave(torch.tensor(list(counts), device=logits.device), 0)
