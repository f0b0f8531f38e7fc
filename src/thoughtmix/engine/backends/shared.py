"""Decode through a model's public forward with keys and values of the prompt shared by all rows.

transformers lets a library register an attention function (AttentionInterface) and pass its own cache. The
cache here stores each row's newest keys and values in the `KVCache`; the attention function, which the model
calls right after, attends over [prompt | own tokens] from there. The prompt itself is read with the model's own
attention. Whether a model really works so is not assumed but probed once (see `probe.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from thoughtmix.engine.backends.base import KVPath, read_prompt
from thoughtmix.engine.kv_cache import KVCache
from thoughtmix.engine.prompt_kv import PromptKV
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

    def __init__(self, cache: KVCache, index: int) -> None:
        super().__init__()
        self.cache, self.index = cache, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if key_states.shape[2] != 1:
            raise Unsupported("more than one token a step")
        self.cache.store(self.index, key_states[:, :, 0], value_states[:, :, 0])
        return key_states, value_states

    def get_seq_length(self) -> int:
        return self.cache.longest

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


_CACHE: ContextVar[KVCache | None] = ContextVar("thoughtmix_kv_cache", default=None)
"""Of the step that runs in this thread: the model calls our attention function, which has no other way to it."""
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
    cache = _CACHE.get()
    if cache is None:
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
    out = cache.attend(layer, query.view(b, h, heads // h, d) * scale, sliding_window, softcap)
    return out.view(b, 1, heads, d), None


AttentionInterface.register(NAME, _attention)


class SharedPath(KVPath):
    """The path through a model's public forward.

    Args:
        model: Its own step is used where it has one (a `decoding_step` method that gives a function or None).
        own: Whether it is, also when rows have no state.
    """

    name = "shared"
    weights_kind = "native"

    def __init__(
        self, model: PreTrainedModel, row_state: RowState = NO_ROW_STATE, own: bool = False, joined: bool = False
    ) -> None:
        super().__init__(row_state, joined)
        self.model, self.own = model, own
        self.quick: OwnStep | None = None
        self.layers: Cache | None = None

    @property
    def home(self) -> PreTrainedModel:
        return self.model

    @property
    def reuses(self) -> bool:
        """Rows with a state of their own, and models that remember more than keys and values, read everything."""
        return isinstance(self.row_state, NoRowState) and not hasattr(self.model, "decoding_step")

    @property
    def can_be_joined(self) -> bool:
        return isinstance(self.row_state, NoRowState)

    def empty(self) -> SharedPath:
        return SharedPath(self.model, own=self.own, joined=True)

    def prefill(self, ids: list[int], past: PromptKV | None) -> tuple[Tensor, PromptKV]:
        before = 0 if past is None else past.length
        with attention_lock(self.model), self._without_state():
            logits, _, cache = read_prompt(self.model, ids, plain_cache=True, cache=_to_cache(past) if past else None)
        return logits[0], _to_prompt(cache, before + len(ids))

    def _without_state(self) -> AbstractContextManager[Any]:
        """Where rows have a state, its own `prefilling` is around the whole of `start`."""
        return NO_ROW_STATE.probing() if isinstance(self.row_state, NoRowState) else nullcontext()

    def step(self, tokens: Tensor) -> Tensor:
        if self.layers is None:
            self._begin()
        if self.quick is not None and not self.note:  # a model's own step runs none of the modules that would be noted
            with self.row_state.stepping(slice(0, len(tokens))):
                logits = self.quick(tokens, self.cache.positions(), self._attend)
            if logits is not None:
                self.cache.advance()
                return logits
        rows = slice(0, len(tokens))
        with _swapped(self.model), self.noting(self.model), self.row_state.stepping(rows):
            token = _CACHE.set(self.cache)
            try:
                out = self.model(
                    input_ids=tokens[:, None],
                    position_ids=self.cache.positions()[:, None],
                    past_key_values=self.layers,
                    use_cache=True,
                )
            finally:
                _CACHE.reset(token)
        self.cache.advance()
        return out.logits[:, -1]

    def _begin(self) -> None:
        """Before the first step."""
        if self.own and hasattr(self.model, "decoding_step"):
            self.quick = self.model.decoding_step()  # type: ignore[operator]
        count = len(self.cache.places[0].bucket.own_keys)
        self.layers = Cache(layers=[_Layer(self.cache, i) for i in range(count)])

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.store(layer, k, v)
        return self.cache.attend(layer, q).reshape(len(q), -1)

    def close(self) -> None:
        super().close()
        self.layers = self.quick = None


def _to_prompt(cache: Cache, tokens: int) -> PromptKV:
    """A cache of batch 1 as a prompt. Raises `Unsupported` when it has not kept every token's keys."""
    keys, values = ([getattr(layer, name) for layer in cache.layers] for name in ("keys", "values"))
    if any(k is None or k.shape[2] != tokens for k in keys):
        raise Unsupported("a cache that does not keep every key")
    return PromptKV([k[0] for k in keys], [v[0] for v in values], tokens)


def _to_cache(prompt: PromptKV) -> Cache:
    """The other way round."""
    made = DynamicCache()
    for layer, (keys, values) in enumerate(zip(prompt.keys, prompt.values, strict=True)):
        made.update(keys[None], values[None], layer)
    return made


_LOCKS: WeakKeyDictionary[PreTrainedModel, threading.Lock] = WeakKeyDictionary()


def attention_lock(model: PreTrainedModel) -> threading.Lock:
    """Held while a model's own attention, or its stand-in, must stay in place: other threads decode with it too."""
    return _LOCKS.setdefault(model, threading.Lock())


@contextmanager
def _swapped(model: PreTrainedModel) -> Iterator[None]:
    """The model with its attention swapped, for one forward: between steps it is as it was found, so that other
    threads, and listeners of this one, may use it."""
    with attention_lock(model):
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
