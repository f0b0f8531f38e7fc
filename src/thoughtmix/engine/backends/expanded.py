"""The path that works everywhere: the model's own cache, read once and copied to n rows, or read by each row itself.

Prompts are decoded one after the other (their caches have different lengths).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from thoughtmix.engine.backends.base import blocks, read_prompt
from thoughtmix.engine.prefix_cache import Prefix
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState


class ExpandedPath:
    name = "expanded"
    spared = 0

    def __init__(self, model: PreTrainedModel, row_state: RowState = NO_ROW_STATE, read: Read = "shared") -> None:
        self.model = model
        self.row_state, self.read = row_state, read
        self.cache_name = "past_key_values"
        self.batches: list[tuple[Any, int]] = []  # a prompt: (its cache, its rows)

    def start(self, prompts: list[list[int]], rows: list[int], capacity: int) -> Tensor:
        logits = []
        for ids, n, mine in zip(prompts, rows, blocks(rows), strict=True):
            each = self.read == "each"
            if each and not n:
                self.batches.append((None, 0))
                continue
            with self.row_state.prefilling(mine, self.read):
                last, self.cache_name, cache = read_prompt(self.model, ids, plain_cache=False, rows=n if each else 1)
            if not each and n != 1:
                self._pick(cache, [0] * n)
            self.batches.append((cache, n))
            logits.append(last)
        return torch.cat(logits)

    def resume(self, prompts: list[list[int]], known: list[Prefix | None], rows: list[int], capacity: int) -> int:
        """Caches of unknown kinds cannot be cut and joined: everything is read again."""
        self.start(prompts, rows, capacity)
        return sum(map(len, prompts))

    def keep(self, row: int, prompt: int, ids: list[int]) -> Prefix:
        """The tokens alone."""
        return Prefix(tuple(ids))

    def step(self, tokens: Tensor) -> Tensor:
        out = []
        row = 0
        for cache, n in self.batches:
            if n:
                mine = slice(row, row + n)
                with self.row_state.stepping(mine):
                    step = self.model(input_ids=tokens[mine, None], use_cache=True, **{self.cache_name: cache})
                out.append(step.logits[:, -1])
            row += n
        return torch.cat(out)

    def drop(self, gone: list[int]) -> list[int]:
        keep = [r for r in range(sum(n for _, n in self.batches)) if r not in set(gone)]
        row = 0
        for i, (cache, n) in enumerate(self.batches):
            mine = [r - row for r in keep if row <= r < row + n]
            if 0 < len(mine) < n:
                self._pick(cache, mine)
            self.batches[i] = (cache if mine else None, len(mine))
            row += n
        return keep

    def _pick(self, cache: Any, rows: list[int]) -> None:
        """Make the cache hold these of its rows, in this order; a row may be taken many times."""
        if rows:
            cache.reorder_cache(torch.tensor(rows, device=self.model.device))

    def close(self) -> None:
        self.batches.clear()
