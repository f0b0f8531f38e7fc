"""The path of models that keep no usable cache: every step reads the whole text of every row again.

Slow, in that a step takes as long as reading all text so far, and exact: it is the model's own forward. Rows of equal
length go through the model together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from thoughtmix.engine.backends.base import Start, keeps_logits
from thoughtmix.engine.backends.hidden import NotesHidden
from thoughtmix.engine.backends.shared import attention_lock
from thoughtmix.engine.prefix_cache import Prefix
from thoughtmix.engine.row_state import NO_ROW_STATE, RowState


class RecomputePath(NotesHidden):
    """Over a model's forward alone. For rows without a state: what a state keeps from step to step would be told the
    same tokens again and again."""

    name = "recompute"
    weights_kind = "native"

    def __init__(self, model: PreTrainedModel, row_state: RowState = NO_ROW_STATE) -> None:
        self.model, self.row_state = model, row_state
        self.texts: list[Tensor] = []  # a row: (tokens,) what it has read

    def start(self, asked: Start) -> tuple[Tensor, int]:
        """See `DecodingPath`. There is nothing to begin from but the tokens."""
        device, logits = self.model.device, []
        for ids, count in zip(asked.prompts, asked.counts, strict=True):
            if count:
                text = torch.tensor(ids, device=device)
                logits.append(self._forward(text[None], slice(len(self.texts), len(self.texts) + 1)).expand(count, -1))
                self.texts += [text] * count
        return torch.cat(logits), sum(len(ids) for ids, n in zip(asked.prompts, asked.counts, strict=True) if n)

    def step(self, tokens: Tensor) -> Tensor:
        """See `DecodingPath`."""
        self.texts = [torch.cat([text, token[None]]) for text, token in zip(self.texts, tokens, strict=True)]
        with self.noting(self.model):
            return self._read_all()

    def _read_all(self) -> Tensor:
        out: list[Tensor] = []
        first = 0
        while first < len(self.texts):  # neighbours of one length, as the rows of a prompt are
            end = first
            while end < len(self.texts) and len(self.texts[end]) == len(self.texts[first]):
                end += 1
            out.append(self._forward(torch.stack(self.texts[first:end]), slice(first, end)))
            first = end
        return torch.cat(out)

    def _forward(self, ids: Tensor, rows: slice) -> Tensor:
        """(rows, tokens) -> (rows, vocabulary) logits after the last."""
        extra: dict[str, Any] = {"logits_to_keep": 1} if keeps_logits(type(self.model)) else {}
        with attention_lock(self.model), self.row_state.stepping(rows):
            return self.model(input_ids=ids, use_cache=False, **extra).logits[:, -1]

    def drop(self, gone: list[int]) -> list[int]:
        """See `DecodingPath`."""
        keep = [row for row in range(len(self.texts)) if row not in set(gone)]
        self.texts = [self.texts[row] for row in keep]
        return keep

    def keep(self, row: int, ids: list[int]) -> Prefix:
        """The tokens alone."""
        return Prefix(tuple(ids))

    def close(self) -> None:
        self.texts.clear()
