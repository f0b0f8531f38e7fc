"""Chunked prefill: read the prompts of a job in pieces, so that rows that run already wait for a bounded number of
tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thoughtmix.engine.backends.base import KVPath
from thoughtmix.engine.kv_cache import PromptKV
from thoughtmix.engine.prefix_cache import PrefixCache


class Pace:
    """How many prompt tokens may be read at once, so that who decodes beside them waits about a fixed time.

    A chunk of a fixed number of tokens takes longer the more keys it looks back at and the slower the machine; what the
    last chunks took says how many tokens fit into the time. On a quick device the limit in tokens is what holds.

    Args:
        seconds: What a chunk may take.
        least: Tokens below which a chunk is not cut: reading the weights is what it costs then.
    """

    def __init__(self, seconds: float, least: int = 16) -> None:
        self.seconds, self.least = seconds, least
        self._rate: float | None = None  # tokens a second, of late

    def at_most(self, tokens: int) -> int:
        """So many of these tokens as the time allows; all of them before anything is known."""
        if self._rate is None:
            return tokens
        return int(min(tokens, max(self.least, self._rate * self.seconds)))

    def took(self, tokens: int, seconds: float) -> None:
        """Learn from a chunk. Short ends of prompts say little about a whole chunk, and count for nothing."""
        if tokens < self.least or seconds <= 0:
            return
        rate = tokens / seconds
        self._rate = rate if self._rate is None else (self._rate + rate) / 2


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
