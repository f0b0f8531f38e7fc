"""How a batch goes through a model: the interface that the decoding paths share, and what two of them do alike.

fused      Llama-like models: own step over weights fused and packed once (fused.py)
shared     any model whose attention can be swapped: its public forward, our attention (shared.py)
expanded   most other decoder-only models: its public forward and its own cache, copied to n rows (expanded.py)
recompute  models that keep no usable cache: their public forward over the whole text, at every step (recompute.py)
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from thoughtmix.core.errors import ModelError
from thoughtmix.engine.backends.hidden import NotesHidden
from thoughtmix.engine.kv_cache import KVCache
from thoughtmix.engine.prefix_cache import Prefix, PrefixCache, usable, whole
from thoughtmix.engine.prompt_kv import PromptKV
from thoughtmix.engine.row_state import RowLora, RowState

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Start:
    """What is asked of a path when a batch begins that nobody joins.

    Args:
        prompts: Token ids that rows read together.
        counts: Rows of each prompt.
        capacity: Most tokens that a row holds for itself.
        prefixes: What is known of each prompt; () where nothing is.
        keep: Whether rows will be asked for their prefixes.
        reads_on: Whether each row reads more tokens before it draws: no logits are asked for.
    """

    prompts: Sequence[list[int]]
    counts: Sequence[int]
    capacity: int
    prefixes: Sequence[Prefix | None] = ()
    keep: bool = False
    reads_on: bool = False

    @property
    def blocks(self) -> list[slice]:
        """Where the rows of each prompt stand: counts 2, 3 -> [0:2, 2:5]."""
        ends = list(accumulate(self.counts))
        return [slice(end - n, end) for n, end in zip(self.counts, ends, strict=True)]

    def by_row(self, logits: Sequence[Tensor]) -> Tensor:
        """Logits (vocabulary,) of each prompt -> (rows, vocabulary)."""
        counts = torch.tensor(list(self.counts), device=logits[0].device)
        return torch.stack(list(logits)).repeat_interleave(counts, 0)


class DecodingPath(Protocol):
    """The state of one batch. Rows of one prompt are neighbours; `step` and `drop` keep it so."""

    note: frozenset[int]
    hidden: Mapping[int, Tensor]  # of `NotesHidden`, as are the others
    reads_on: bool

    @property
    def name(self) -> str: ...

    @property
    def weights_kind(self) -> str:
        """How a step reads the weights: native, fp16 or bf16."""
        ...

    def start(self, asked: Start) -> tuple[Tensor | None, int]:
        """Read the prompts. Returns the logits (rows, vocabulary) of each row's first token, and how many tokens went
        through the model; None where some prompt was known to its end, so that its rows must read one more token."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token a row: tokens (rows,) -> (rows, vocabulary) logits."""
        ...

    def read_on(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Append some tokens a row, as many to all of one prompt: (rows, vocabulary) logits after the last of each. For
        paths that say `reads_on`."""
        ...

    def drop(self, gone: list[int]) -> list[int]:
        """Remove rows; the old index of each remaining row, in the new order."""
        ...

    def keep(self, row: int, ids: list[int]) -> Prefix:
        """What the row at this position has read, `ids` in all, to begin others from."""
        ...

    def close(self) -> None:
        """Leave the model as it was found."""
        ...


class Piece(NamedTuple):
    """Tokens of one prompt that are read together, and the keys and values of those before them."""

    ids: list[int]
    past: PromptKV | None
    whole: int = 0
    """Tokens of the whole prompt, for which room may be made at once."""


class KVPath(NotesHidden, ABC):
    """A path over the batch KV cache. Its prompts can be read in pieces, begin from prefixes, and join other rows."""

    name = ""
    row_lora: Callable[[], RowLora | None] | None = None
    """Of the rows in the batch, for paths that apply it themselves."""

    def __init__(self, row_state: RowState, joined: bool = False) -> None:
        self.row_state, self.cache = row_state, KVCache(joined)

    @property
    @abstractmethod
    def home(self) -> Any:
        """Whose keys and values these are: prefixes of another home count as unread."""

    @property
    @abstractmethod
    def weights_kind(self) -> str: ...

    @property
    @abstractmethod
    def reuses(self) -> bool:
        """Whether what was read of a prompt before, by others, is as good as read now."""

    @property
    @abstractmethod
    def can_be_joined(self) -> bool:
        """Whether its rows may share steps with those of other calls."""

    @abstractmethod
    def empty(self) -> KVPath:
        """A path like this over whoever will join, nobody yet."""

    @abstractmethod
    def prefill(self, ids: list[int], past: PromptKV | None) -> tuple[Tensor, PromptKV]:
        """Read tokens that follow `past`: the logits (vocabulary,) after them, and keys and values of all."""

    def prefill_packed(self, pieces: Sequence[Piece]) -> list[tuple[Tensor, PromptKV]]:
        """`prefill` of each, at once where the path can."""
        return [self.prefill(piece.ids, piece.past) for piece in pieces]

    @abstractmethod
    def step(self, tokens: Tensor) -> Tensor: ...

    def start(self, asked: Start) -> tuple[Tensor | None, int]:
        """See `DecodingPath`."""
        cache, logits, prompts, sources, computed = PrefixCache(), list[Tensor](), list[PromptKV](), list[Any](), 0
        prefixes = asked.prefixes if self.reuses and asked.prefixes else [None] * len(asked.prompts)
        for ids, rows, prefix in zip(asked.prompts, asked.blocks, prefixes, strict=True):
            base = usable(prefix, self.home) or (cache.longest(ids, self.home) if self.reuses else None)
            base = base.cut(min(base.length, len(ids))) if base else None
            past, new = (base.prompt(), ids[base.length :]) if base else (None, ids)
            if new:
                with self.row_state.prefilling(rows, "shared"):
                    last, read = self.prefill(new, past)
                logits.append(last)
                computed += len(new)
            else:
                assert past is not None
                read = past
            if len(asked.prompts) > 1 and new:
                cache.keep(ids, read, self.home)
            prompts.append(read)
            sources.append(self._source(base, ids, read) if asked.keep else None)
        self.cache.join(prompts, asked.counts, asked.capacity, sources)
        return (asked.by_row(logits) if len(logits) == len(prompts) else None), computed

    def _source(self, base: Prefix | None, ids: list[int], read: PromptKV) -> Prefix:
        """A prompt's prefix, from which those of its rows go on. What follows a known beginning is copied: as a view it
        would hold the beginning's memory, too."""
        if base is None:
            return whole(ids, read, self.home)
        if base.length == len(ids):
            return base
        keys, values = ([x[:, base.length :].clone() for x in some] for some in (read.keys, read.values))
        return base.extended(ids[base.length :], keys, values)

    def join(self, prompts: Sequence[PromptKV], counts: Sequence[int], capacity: int) -> None:
        """Rows at the end, with their prompts read."""
        self.cache.join(prompts, counts, capacity)

    def keep(self, row: int, ids: list[int]) -> Prefix:
        """See `DecodingPath`; for batches that were started to keep."""
        place, number = self.cache.row(row)
        source: Prefix = place.source
        tokens = int(place.own[number])
        if not tokens:
            return source
        keys, values = self.cache.own(row)
        return source.extended(ids[source.length : source.length + tokens], keys.unbind(0), values.unbind(0))

    def drop(self, gone: list[int]) -> list[int]:
        return self.cache.drop(gone)

    def close(self) -> None:
        self.cache.clear()


CACHE_NAMES = ("past_key_values", "cache_params")  # attention models; purely recurrent ones (Mamba)


def read_prompt(
    model: PreTrainedModel,
    ids: list[int],
    plain_cache: bool,
    rows: int = 1,
    cache: Cache | None = None,
) -> tuple[Tensor, str, Any]:
    """One forward pass over a prompt: (rows, vocabulary) logits of the next token; the cache's name and the cache.

    Args:
        plain_cache: A cache that keeps every key of every layer, also where the model would keep a window.
        cache: Of the tokens before `ids`, to go on with; a plain one.

    Raises:
        ModelError: The model returns no cache.
    """
    extra: dict[str, Any] = {"logits_to_keep": 1} if keeps_logits(type(model)) else {}
    if plain_cache:
        from transformers import DynamicCache

        extra["past_key_values"] = DynamicCache() if cache is None else cache
    out = model(input_ids=torch.tensor([ids] * rows, device=model.device), use_cache=True, **extra)
    for name in CACHE_NAMES:
        if getattr(out, name, None) is not None:
            return out.logits[:, -1], name, getattr(out, name)
    raise ModelError(f"{type(model).__name__} returns no cache.", "Choose a decoder-only model (--model).")


def keeps_logits(kind: type[PreTrainedModel]) -> bool:
    """Whether its forward can be told of how many last tokens the logits are wanted."""
    return takes(kind, "logits_to_keep")


def takes(kind: type[PreTrainedModel], argument: str) -> bool:
    """Whether a model's forward names this argument."""
    return argument in inspect.signature(kind.forward).parameters


def vocabulary_size(model: PreTrainedModel) -> int:
    """How many token ids the model has an embedding for."""
    embedding: Any = model.get_input_embeddings()
    return len(embedding.weight)  # PEFT's wrappers have no num_embeddings
