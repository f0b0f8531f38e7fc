"""Decode through a model's public forward with keys and values of the prompt shared by all rows.

transformers lets a library register an attention function (AttentionInterface) and pass its own cache. The
cache here stores each row's newest keys and values in `SharedPrefix`; the attention function, which the model
calls right after, attends over [prompt | own tokens] from there. The prompt itself is read with the model's own
attention. Whether a model really works so is not assumed but probed once (see `probe.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from thoughtmix.engine.backends.base import blocks, read_prompt
from thoughtmix.engine.kv_cache import Prompt, SharedPrefix
from thoughtmix.engine.prefix_cache import Prefix, kept, resumed
from thoughtmix.engine.row_state import NO_ROW_STATE, NoRowState, RowState

NAME = "thoughtmix_shared"
# Arguments that models hand down to every attention function and that change nothing in its result.
_IDLE = frozenset(
    {
        "cache_position",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)


class OwnStep(Protocol):
    """A model's own way to read one token a row."""

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Callable[..., Tensor]) -> Tensor | None:
        """tokens, positions (b,) -> logits (b, v); None: take the forward this time. attend(layer, q (b, h, g, d),
        scaled, k and v (b, h, d)) -> (b, h g d) stores and attends."""
        ...


class Unsupported(Exception):
    """This model's attention asks for something the shared path does not compute."""


class _Layer(CacheLayerMixin):
    """One layer of the cache that the model sees during a step."""

    is_sliding = False

    def __init__(self, state: SharedPrefix, index: int) -> None:
        super().__init__()
        self.state, self.index = state, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if key_states.shape[2] != 1:
            raise Unsupported("more than one token a step")
        self.state.store(self.index, key_states[:, :, 0], value_states[:, :, 0])
        return key_states, value_states

    def get_seq_length(self) -> int:
        return max(p.length for p in self.state.prompts) + self.state.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


_STATE: ContextVar[SharedPrefix | None] = ContextVar("thoughtmix_shared_state", default=None)
_WINDOWS: ContextVar[dict[int, int | None] | None] = ContextVar("thoughtmix_seen_windows", default=None)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (b, heads, 1, d), key and value (b, h, 1, d) -> (b, 1, heads, d)."""
    state = _STATE.get()
    if state is None:
        raise Unsupported(f"attention {NAME!r} is only for thoughtmix's decoding steps")
    unknown = [name for name, given in kwargs.items() if given is not None and name not in _IDLE]
    if unknown or attention_mask is not None or dropout:
        raise Unsupported(f"attention arguments {', '.join(unknown) or 'mask or dropout'}")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    seen = _WINDOWS.get()
    if seen is not None:
        seen[layer] = sliding_window
    b, heads, _, d = query.shape
    h = key.shape[1]
    scale = d**-0.5 if scaling is None else scaling
    out = state.attend(layer, query.view(b, h, heads // h, d) * scale, sliding_window, softcap)
    return out.view(b, 1, heads, d), None


AttentionInterface.register(NAME, _attention)


class SharedPath:
    name = "shared"
    spared = 0

    def __init__(self, model: PreTrainedModel, row_state: RowState = NO_ROW_STATE, own: bool = False) -> None:
        """own: use the model's own step (a `decoding_step` method that gives a function or None) where it has one."""
        self.model = model
        self.row_state = row_state
        self.own = own
        self.quick: OwnStep | None = None
        self.state: SharedPrefix | None = None
        self.cache: Cache | None = None
        self.bases: dict[int, Prefix] = {}  # prompts whose prefixes rows have handed out, or began from

    def start(self, prompts: list[list[int]], rows: list[int], capacity: int) -> Tensor:
        logits, read = [], []
        for ids, n, mine in zip(prompts, rows, blocks(rows), strict=True):
            with alone(self.model), self.row_state.prefilling(mine, "shared"):
                last, _, cache = read_prompt(self.model, ids, plain_cache=True)
            read.append(whole(cache, len(ids), n))
            logits.append(last)
        self.begin(SharedPrefix(read, capacity), len(read[0].keys))
        return torch.cat(logits)

    def begin(self, state: SharedPrefix, layers: int) -> None:
        """Step from this state on."""
        self.state = state
        if self.own and hasattr(self.model, "decoding_step"):
            self.quick = self.model.decoding_step()  # type: ignore[operator]
        self.cache = Cache(layers=[_Layer(state, i) for i in range(layers)])

    def resume(self, prompts: list[list[int]], known: list[Prefix | None], rows: list[int], capacity: int) -> int:
        """Rows that carry a state, and models that remember more than keys and values, read everything again."""
        if not isinstance(self.row_state, NoRowState) or hasattr(self.model, "decoding_step"):
            self.start(prompts, rows, capacity)
            return sum(map(len, prompts))

        def read(index: int, ids: list[int], before: Prompt | None) -> Prompt:
            cache = self.read(ids, None if before is None else _cache(before))[1]
            return whole(cache, len(ids) + (before.length if before else 0), 0)

        prompts_read, self.bases, tokens = resumed(prompts, known, rows, self.model, read)
        self.begin(SharedPrefix(prompts_read, capacity), len(prompts_read[0].keys))
        return tokens

    def read(self, ids: list[int], cache: Cache | None) -> tuple[Tensor, Cache]:
        """(vocabulary,) logits after these tokens of a row that carries nothing, and the cache to go on with."""
        with alone(self.model), NO_ROW_STATE.probing():
            logits, _, cache = read_prompt(self.model, ids, plain_cache=True, cache=cache)
        assert cache is not None
        return logits[0], cache

    def keep(self, row: int, prompt: int, ids: list[int]) -> Prefix:
        assert self.state is not None
        return kept(self.state, self.bases, self.model, row, prompt, ids)

    def step(self, tokens: Tensor) -> Tensor:
        assert self.state is not None
        if self.quick is not None:
            with self.row_state.stepping(slice(0, len(tokens))):
                logits = self.quick(tokens, self.state.positions(tokens.device), self._attend)
            if logits is not None:
                self.state.advance()
                return logits
        with _swapped(self.model), self.row_state.stepping(slice(0, len(tokens))):
            token = _STATE.set(self.state)
            try:
                out = self.model(
                    input_ids=tokens[:, None],
                    position_ids=self.state.positions(tokens.device)[:, None],
                    past_key_values=self.cache,
                    use_cache=True,
                )
            finally:
                _STATE.reset(token)
        self.state.advance()
        return out.logits[:, -1]

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert self.state is not None
        self.state.store(layer, k, v)
        return self.state.attend(layer, q).reshape(len(q), -1)

    def drop(self, gone: list[int]) -> list[int]:
        assert self.state is not None
        return self.state.drop(gone)

    def close(self) -> None:
        self.state = self.cache = self.quick = None
        self.bases = {}


def whole(cache: Cache, tokens: int, rows: int) -> Prompt:
    """A cache of batch 1 as a prompt. Raises `Unsupported` when it has not kept every token's keys."""
    keys, values = ([getattr(layer, name) for layer in cache.layers] for name in ("keys", "values"))
    if any(k is None or k.shape[2] != tokens for k in keys):
        raise Unsupported("a cache that does not keep every key")
    return Prompt([k[0] for k in keys], [v[0] for v in values], tokens, rows)


def _cache(prompt: Prompt) -> Cache:
    """The other way round."""
    made = DynamicCache()
    for layer, (keys, values) in enumerate(zip(prompt.keys, prompt.values, strict=True)):
        made.update(keys[None], values[None], layer)
    return made


_LOCKS: WeakKeyDictionary[PreTrainedModel, threading.Lock] = WeakKeyDictionary()


def alone(model: PreTrainedModel) -> threading.Lock:
    """Held while a model's own attention, or its stand-in, must stay in place: other threads decode with it too."""
    return _LOCKS.setdefault(model, threading.Lock())


@contextmanager
def _swapped(model: PreTrainedModel) -> Iterator[None]:
    """The model with its attention swapped, for one forward: between steps it is as it was found, so that other
    threads, and listeners of this one, may use it."""
    with alone(model):
        names = attention_names(model)
        model.set_attn_implementation(dict.fromkeys(names, NAME))
        try:
            yield
        finally:
            model.set_attn_implementation(names)


def attention_names(model: PreTrainedModel) -> dict[str, str]:
    """The attention implementation of a model ("") and of each of its sub-configs, by key."""
    names = {"": model.config._attn_implementation}
    for key in model.config.sub_configs:
        part = getattr(model.config, key, None)
        if part is not None:
            names[key] = part._attn_implementation
    return names
