"""Read the prompts of a decode in pieces, so that rows that run already wait for a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache

from thoughtmix.engine.backends.fused import FusedPath
from thoughtmix.engine.backends.shared import SharedPath, whole
from thoughtmix.engine.beginnings import Beginnings
from thoughtmix.engine.kv_cache import Prompt, SharedPrefix


class Reading:
    """Prompts of one decode on their way into keys and values. counts: rows of each prompt. known: how others began."""

    def __init__(
        self,
        route: FusedPath | SharedPath,
        prompts: Sequence[Sequence[int]],
        counts: Sequence[int],
        capacity: int,
        known: Beginnings | None = None,
    ) -> None:
        self.known = known or Beginnings()
        self.route, self.prompts, self.counts, self.capacity = route, [list(p) for p in prompts], counts, capacity
        self.read: list[Prompt] = []
        self.logits: list[Tensor] = []
        self.computed = 0  # tokens that went through the model
        self._at = 0  # tokens of the current prompt that are read
        self._part: Prompt | Cache | None = None  # what is read of it

    @property
    def done(self) -> bool:
        return len(self.read) == len(self.prompts)

    @torch.no_grad()
    def advance(self, tokens: int) -> int:
        """Read up to so many tokens more; how many were read."""
        left = tokens
        while left > 0 and not self.done:
            ids = self.prompts[len(self.read)]
            if self._at == 0 and isinstance(self.route, FusedPath):
                began = self._part = self.known.of(self.route.weights, ids)
                self._at = began.length if began else 0
            piece = ids[self._at : self._at + left]
            last = self._at + len(piece) == len(ids)
            logits = self._more(piece)
            left -= len(piece)
            self.computed += len(piece)
            self._at += len(piece)
            if last:
                self.logits.append(logits)
                self.read.append(self._finished(ids))
                if isinstance(self.route, FusedPath):
                    self.known.keep(self.route.weights, ids, self.read[-1])
                self._at, self._part = 0, None
        return tokens - left

    def result(self) -> tuple[SharedPrefix, Tensor]:
        """The state that a step goes on from, and the logits (rows, vocabulary) of each row's first token."""
        state = SharedPrefix(self.read, self.capacity)
        logits = torch.stack(self.logits)
        return state, logits.repeat_interleave(torch.tensor(list(self.counts), device=logits.device), 0)

    def _finished(self, ids: list[int]) -> Prompt:
        rows = self.counts[len(self.read)]
        if isinstance(self._part, Prompt):
            self._part.rows = rows
            return self._part
        assert self._part is not None
        return whole(self._part, len(ids), rows)

    def _more(self, ids: list[int]) -> Tensor:
        """(vocabulary,) logits after these tokens, which follow what was read of the prompt."""
        if isinstance(self.route, FusedPath):
            assert not isinstance(self._part, Cache)
            with torch.inference_mode():
                logits, self._part = self.route._read(ids, self._part)
        else:
            assert not isinstance(self._part, Prompt)
            logits, self._part = self.route.read(ids, self._part)
        return logits
