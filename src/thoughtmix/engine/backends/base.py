"""How a batch is read and stepped: the interface that the three paths share, and reading a prompt.

fused     Llama-like models: own step over weights fused and packed once (fused.py)
shared    any model whose attention can be swapped: its public forward, our attention (shared.py)
expanded  every other decoder-only model: its public forward and its own cache, copied to n rows (expanded.py)
"""

from __future__ import annotations

import inspect
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from thoughtmix.core.errors import ModelError
from thoughtmix.engine.prefix_cache import Prefix


class Stepped(Protocol):
    """The state of one batch. Rows of one prompt are neighbours; `step` and `drop` keep it so."""

    @property
    def name(self) -> str: ...

    @property
    def spared(self) -> int:
        """Tokens of the prompts that `start` had read with an earlier prompt."""
        ...

    def start(self, prompts: list[list[int]], rows: list[int], capacity: int) -> Tensor:
        """Read the prompts; prompt p gets rows[p] rows of up to `capacity` own tokens.
        Returns the logits of the first new token: (prompts, vocabulary), or (rows, vocabulary) where each row read."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token a row: tokens (rows,) -> (rows, vocabulary) logits."""
        ...

    def drop(self, gone: list[int]) -> list[int]:
        """Remove rows; the old index of each remaining row, in the new order."""
        ...

    def close(self) -> None:
        """Leave the model as it was found."""
        ...


class Path(Stepped, Protocol):
    """One whose prompts may be kept and gone on with."""

    def resume(self, prompts: list[list[int]], known: list[Prefix | None], rows: list[int], capacity: int) -> int:
        """`start` where the beginnings of prompts may have been read already. No logits: the caller has kept at least
        one token back. Returns how many tokens were read."""
        ...

    def keep(self, row: int, prompt: int, ids: list[int]) -> Prefix:
        """What the row at this position has read, `ids` in all, to begin others from."""
        ...


CACHE_NAMES = ("past_key_values", "cache_params")  # attention models; purely recurrent ones (Mamba)


def read_prompt(
    model: PreTrainedModel,
    ids: list[int],
    plain_cache: bool,
    rows: int = 1,
    cache: Cache | None = None,
) -> tuple[Tensor, str, Any]:
    """One forward pass over a prompt: (rows, vocabulary) logits of the next token; the cache's name and the cache.

    plain_cache: a cache that keeps every key of every layer, also where the model would keep a window.
    cache: of the tokens before `ids`, to go on with; a plain one.
    """
    extra: dict[str, Any] = {"logits_to_keep": 1} if keeps_logits(type(model)) else {}
    if plain_cache:
        extra["past_key_values"] = DynamicCache() if cache is None else cache
    out = model(input_ids=torch.tensor([ids] * rows, device=model.device), use_cache=True, **extra)
    for name in CACHE_NAMES:
        if getattr(out, name, None) is not None:
            return out.logits[:, -1], name, getattr(out, name)
    raise ModelError(f"{type(model).__name__} returns no cache.", "Choose a decoder-only model (--model).")


def blocks(rows: list[int]) -> list[slice]:
    """Where the rows of each prompt stand: [2, 3] -> [0:2, 2:5]."""
    ends = list(accumulate(rows))
    return [slice(end - n, end) for n, end in zip(rows, ends, strict=True)]


def keeps_logits(kind: type[PreTrainedModel]) -> bool:
    """Whether its forward can be told of how many last tokens the logits are wanted."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters


def vocabulary_size(model: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.num_embeddings)
