"""The path that works everywhere: the model's own cache, read once and copied to n rows, or read by each row itself.

Prompts are decoded one after the other (their caches have different lengths).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from thoughtmix.engine.backends.base import Start, read_prompt
from thoughtmix.engine.backends.hidden import NotesHidden
from thoughtmix.engine.backends.shared import attention_lock
from thoughtmix.engine.prefix_cache import Prefix
from thoughtmix.engine.row_state import NO_ROW_STATE, Read, RowState


class ExpandedPath(NotesHidden):
    """Over a model's own forward and cache.

    Args:
        positioned: Whether a step says where its tokens stand. Models whose cache counts no tokens (Bamba, MiniMax)
            cannot tell; models that count from another number than 0 (RoBERTa) do so themselves.
    """

    name = "expanded"
    weights_kind = "native"

    def __init__(
        self,
        model: PreTrainedModel,
        row_state: RowState = NO_ROW_STATE,
        read: Read = "shared",
        positioned: bool = True,
    ) -> None:
        self.model, self.positioned = model, positioned
        self.row_state, self.read = row_state, read
        self.cache_name = "past_key_values"
        self.batches: list[tuple[Any, int, int]] = []  # a prompt: (its cache, its rows, tokens read)

    def start(self, asked: Start) -> tuple[Tensor, int]:
        """Caches of unknown kinds cannot be cut and joined: prefixes are read again."""
        logits, computed, each = [], 0, self.read == "each"
        for ids, n, rows in zip(asked.prompts, asked.counts, asked.blocks, strict=True):
            if not n:
                self.batches.append((None, 0, len(ids)))
                continue
            with attention_lock(self.model), self.row_state.prefilling(rows, self.read):
                last, self.cache_name, cache = read_prompt(self.model, ids, plain_cache=False, rows=n if each else 1)
            if not each and n != 1:
                self._pick(cache, [0] * n)
            self.batches.append((cache, n, len(ids)))
            logits.append(last if each else last.expand(n, -1))
            computed += len(ids) * (n if each else 1)
        return torch.cat(logits), computed

    def keep(self, row: int, ids: list[int]) -> Prefix:
        """The tokens alone."""
        return Prefix(tuple(ids))

    def step(self, tokens: Tensor) -> Tensor:
        with self.noting(self.model):
            return self._step(tokens)

    def _step(self, tokens: Tensor) -> Tensor:
        out = []
        row = 0
        for i, (cache, n, read) in enumerate(self.batches):
            if n:
                rows = slice(row, row + n)
                extra: dict[str, Any] = {self.cache_name: cache}
                if self.positioned:
                    extra["position_ids"] = torch.full((n, 1), read, device=tokens.device)
                with attention_lock(self.model), self.row_state.stepping(rows):
                    out.append(self.model(input_ids=tokens[rows, None], use_cache=True, **extra).logits[:, -1])
            self.batches[i] = (cache, n, read + 1)
            row += n
        return torch.cat(out)

    def drop(self, gone: list[int]) -> list[int]:
        keep = [r for r in range(sum(n for _, n, _ in self.batches)) if r not in set(gone)]
        row = 0
        for i, (cache, n, read) in enumerate(self.batches):
            mine = [r - row for r in keep if row <= r < row + n]
            if 0 < len(mine) < n:
                self._pick(cache, mine)
            self.batches[i] = (cache if mine else None, len(mine), read)
            row += n
        return keep

    def _pick(self, cache: Any, rows: list[int]) -> None:
        """Make the cache hold these of its rows, in this order; a row may be taken many times."""
        if rows:
            # A class of the model's own may have only one of the two methods right (MiniMax: the second).
            own = "batch_select_indices" in vars(type(cache)) and "reorder_cache" not in vars(type(cache))
            pick = cache.batch_select_indices if own else cache.reorder_cache
            pick(torch.tensor(rows, device=self.model.device))

    def close(self) -> None:
        self.batches.clear()
