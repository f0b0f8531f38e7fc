"""A graft at work in a model: its hooks around the forward, its draws, and the thoughts that it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.engine.backends.base import CACHE_NAMES
from thoughtmix.engine.row_state import Read, without_row_state
from thoughtmix.graft import route
from thoughtmix.graft.config import MoTConfig
from thoughtmix.graft.context import AdapterContext, ForwardContext, adapter_context, recomputing, use_context
from thoughtmix.graft.layer import MoTLayer
from thoughtmix.graft.row_state import GraftRowState
from thoughtmix.mixture.state import BranchState, active_state, bind_to_cache, state_of_cache

_FORWARDS: ContextVar[dict[int, ForwardContext] | None] = ContextVar("thoughtmix_graft_forwards", default=None)


class Graft:
    """The layers of one adapter in one model, and the hooks around the stack that holds them."""

    thought_hooks = True  # see `GraftHooks`

    def __init__(
        self, config: MoTConfig, adapter: str, layers: list[MoTLayer], stack: nn.Module, model: nn.Module
    ) -> None:
        self.config, self.adapter, self.layers, self.model = config, adapter, layers, model
        self._parameters = list(inspect.signature(stack.forward).parameters)
        self.drawn = 0
        self._last: ForwardContext | None = None  # of the forward whose blocks a backward may compute again
        self._handles = [
            stack.register_forward_pre_hook(self._before, with_kwargs=True),
            stack.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]
        for layer in layers:
            layer.grafts[adapter] = self

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def row_state(
        self, seeds: Sequence[int], creativity: Sequence[float], device: torch.device, weights: Tensor | None = None
    ) -> GraftRowState:
        """The state of rows for the decoding engine.

        Args:
            seeds: One a row.
            creativity: One a row.
            device: Of the model.
            weights: (rows, branches), routes in place of drawn ones.

        Raises:
            InputError: The weights do not fit.
        """
        return GraftRowState(self, seeds, creativity, device, weights)

    def forward_context(self) -> ForwardContext | None:
        """Of the forward that is under way in this thread; in a backward that computes again, of the forward before."""
        found = (_FORWARDS.get() or {}).get(id(self))
        return self._last if found is None and recomputing() else found

    # --- around the stack's forward ---

    def _before(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.layers[0].thought_graft is not self:
            return
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        if "Paged" in type(given.get("cache")).__name__ or given.get("block_table") is not None:
            raise InputError(
                "Continuous batching packs many prompts into one row, whose thoughts cannot be told apart.",
                "Call generate(), or thoughtmix.think.",
            )
        context = self._begin(given)
        if context is not None:
            _FORWARDS.set({**(_FORWARDS.get() or {}), id(self): context})
        if torch.is_grad_enabled():
            self._last = context

    def _after(self, stack: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        under_way = dict(_FORWARDS.get() or {})
        context = under_way.pop(id(self), None)
        _FORWARDS.set(under_way)
        cache = next((found for name in CACHE_NAMES if (found := getattr(output, name, None)) is not None), None)
        hidden = output if isinstance(output, Tensor) else output[0] if output else None
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            hidden.register_hook(_Recompute(self, context))  # a backward comes by here before it reaches the blocks
        if context is not None and cache is not None and active_state() is None and state_of_cache(cache) is None:
            bind_to_cache(cache, context.state)

    def _begin(self, given: dict[str, Any]) -> ForwardContext | None:
        """The context of a forward with these arguments; None: the model is left as it is."""
        ids = given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]
        if ids is None or without_row_state():
            return None
        b, t = ids.shape[:2]
        cache = next((given[name] for name in CACHE_NAMES if given.get(name) is not None), None)
        seen = _tokens_seen(cache)
        mask = given.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= t else None
        length = torch.full((b,), seen + t, device=ids.device) if mask is None else mask.sum(-1).to(ids.device)
        state = self._state(b, ids.device, cache, seen, length)
        positions = _positions(given.get("position_ids"), mask, b, t, seen, ids.device)
        if state.use_cache:
            if seen == 0:
                state.cache["length"] = length
            state.cache["seen"] = torch.full((b,), seen + t, device=ids.device)
        moved = (state.creativity > 0)[:, None] & (positions >= state.prompt_lengths[:, None])
        real = None if mask is None else mask[:, -t:]
        kept = given.get("logits_to_keep")
        kept = kept if isinstance(kept, int) else 0
        context = ForwardContext(state, b, t, positions, moved, real, self._read_prompt, kept)
        if not bool(moved.any()):
            context.idle = True
            return context if self._awaits_prompt(state) else None
        if bool(moved.all()):
            context.moved = None
        if "scale" not in state.cache and not self._awaits_prompt(state):
            self.sample_routes(state)
        context.learns = torch.is_grad_enabled() and self._learns(state)
        return context

    def _learns(self, state: BranchState) -> bool:
        """Whether routes or noise, which are drawn before the first block, carry gradient into all blocks."""
        drawn = [x for name in ("scale", "weight", "noise") if (x := state.cache.get(name)) is not None]
        router = self.layers[0].mot_router
        waits = self._awaits_prompt(state) and router[self.adapter].requires_grad
        return waits or any(x.requires_grad for x in drawn)

    def _state(self, b: int, device: torch.device, cache: Any, seen: int, length: Tensor) -> BranchState:
        """Of the engine's rows, else of those that this cache began with, else of new ones as was asked."""
        state = active_state() or (state_of_cache(cache) if seen else None)
        if state is not None:
            return state if len(state.seeds) == b else state.select([0] * b)
        context = adapter_context(self) or self._default_context(b, cache)
        state = context.begin(b, device, cache is not None, length, self.config, len(self.layers))
        if cache is not None:
            bind_to_cache(cache, state)
        return state

    def _default_context(self, b: int, cache: Any) -> AdapterContext:
        """Of a forward outside `thoughts`, `routed` and the engine, at the config's creativity. With a cache, as in
        `generate`, rows are thoughts 0, 1, ...; without one all rows are thought 0, so that what a text scores does not
        depend on its place in a batch. While training each forward draws on, evenly over the odds, never from global
        random state."""
        generation = getattr(self.model, "generation_config", None)
        creativity = getattr(generation, "creativity", None)
        first = int(getattr(generation, "thought_seed", None) or 0)
        seed: int | list[int] = [first] * b if cache is None else first
        if self.model.training:
            world, rank = 1, 0
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
            seed = self.drawn + rank * b
            self.drawn += world * b
            self.layers[0].mot_drawn[self.adapter].fill_(self.drawn)
        return AdapterContext(self.config.creativity_default if creativity is None else creativity, seed)

    # --- draws ---

    def _awaits_prompt(self, state: BranchState) -> bool:
        """Whether the route waits for what the first layer sees of the prompt."""
        waits = self.config.router == "prompt" and "scale" not in state.cache
        return waits and bool((state.prompt_lengths > 0).any())

    def _read_prompt(self, context: ForwardContext, x: Tensor) -> None:
        """The first layer's inputs (b, t, f): what a router that reads the prompt goes by."""
        total, state = self._prompt_sum(context, x), context.state
        if not context.idle:
            state.cache.pop("weight", None)
            self.sample_routes(state, total / state.prompt_lengths.clamp(min=1)[:, None])

    @torch.no_grad()
    def _prompt_sum(self, context: ForwardContext, x: Tensor) -> Tensor:
        """(b, f) sum over the prompt so far."""
        state = context.state
        inside = (context.positions < state.prompt_lengths[:, None]).float()  # (b, t)
        if context.mask is not None:
            inside = inside * context.mask
        total = torch.bmm(inside[:, None], x.float())[:, 0]
        before = state.cache.get("sum")
        total = total if before is None else before + total
        if state.use_cache:
            state.cache["sum"] = total
        return total

    def log_odds(self, b: int, pool: Tensor | None = None) -> Tensor:
        """(b, l, k) log-odds of the branches; pool (b, f) the mean of the first layer's inputs over the prompt."""
        drawing = self.layers if self.config.route == "layer" else self.layers[:1]
        prior = torch.stack([layer.mot_prior[self.adapter] for layer in drawing]).float()  # (l, k)
        logits = prior.expand(b, *prior.shape)
        if pool is not None and self.config.router == "prompt":
            weights = torch.stack([layer.mot_router[self.adapter] for layer in drawing]).float()  # (l, k, f)
            logits = logits + torch.einsum("lkf,bf->blk", weights, pool)
        return logits.log_softmax(-1)

    def sample_routes(self, state: BranchState, pool: Tensor | None = None) -> None:
        """Draw the routes (where they are not given) and the held noise of these rows, into their cache.

        Args:
            state: Of b rows.
            pool: (b, f), the mean of the first layer's inputs over the prompt, for routers that read it.
        """
        c, cache = self.config, state.cache
        if "weight" not in cache:
            odds = self.log_odds(len(state.seeds), pool)
            if pool is not None:  # a row without a prompt has nothing to go by
                odds = torch.where((state.prompt_lengths > 0)[:, None, None], odds, self.log_odds(len(state.seeds)))
            stratified = c.draw == "stratified"
            branch, log_weight = route.draw_routes(odds, state.seeds, c.branches_min, c.branches_max, stratified)
            cache["branch"], cache["log_weight"] = branch, log_weight
            cache["weight"] = route.dense_weights(branch, log_weight, c.num_branches)
            cache["noisy"] = torch.ones_like(state.creativity)
        cache["scale"] = (state.creativity[:, None, None] * cache["weight"]).repeat_interleave(c.r, -1)
        noisy = cache.get("noisy")
        if noisy is not None and c.noise == "held":
            cache["noise"] = self._held_noise(state.seeds) * noisy[:, None, None]
        if c.noise != "fresh":
            cache.pop("noisy", None)

    def _held_noise(self, seeds: Tensor) -> Tensor:
        """(b, L, k r) noise of every layer at its strength."""
        c = self.config
        noise = route.held_noise(seeds, torch.arange(len(self.layers)), c.num_branches, c.r).flatten(2)
        sigma = torch.stack([layer.sigma(self.adapter, c.noise_scale) for layer in self.layers])
        return noise * sigma.float()[:, None]


@dataclass(slots=True)
class _Recompute:
    """A backward hook: blocks that are computed again find the context of their own forward, whichever came last."""

    graft: Graft
    context: ForwardContext | None

    def __call__(self, gradient: Tensor) -> None:
        self.graft._last = self.context


def _tokens_seen(cache: Any) -> int:
    """How many tokens this cache has read. One without attention does not know; the state of its rows does."""
    if cache is None:
        return 0
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError):
        state = active_state() or state_of_cache(cache)
        seen = None if state is None else state.cache.get("seen")
        return 0 if seen is None else int(seen[0])


def _positions(given: Any, mask: Tensor | None, b: int, t: int, seen: int, device: torch.device) -> Tensor:
    """(b, t): of a row's real tokens."""
    if isinstance(given, Tensor) and given.ndim == 2 and given.shape[1] == t:
        return given.to(device).expand(b, t)
    if mask is not None:
        return (mask.long().cumsum(-1) - 1)[:, -t:].clamp(min=0).to(device)
    return torch.arange(seen, seen + t, device=device).expand(b, t)


# --- whose thoughts ---


def graft_of(model: nn.Module) -> Graft | None:
    """The graft at work in a model, in a PEFT model around one, or in a base model that PEFT has changed."""
    for module in model.modules():
        if isinstance(module, MoTLayer) and isinstance(module.thought_graft, Graft):
            return module.thought_graft
    return None


def require_graft(model: nn.Module) -> Graft:
    """As `graft_of`.

    Raises:
        InputError: There is none.
    """
    found = graft_of(model)
    if found is None:
        raise InputError(
            f"{type(model).__name__} has no active thought branches.",
            "Call peft.get_peft_model(model, MoTConfig()) first, or leave disable_adapter().",
        )
    return found


@contextmanager
def thoughts(
    model: nn.Module,
    creativity: float | Sequence[float] | Tensor = 1.0,
    seed: int | Sequence[int] | Tensor = 0,
    read: Read = "each",
    prompt_lengths: int | Sequence[int] | Tensor | None = None,
) -> Iterator[None]:
    """Within, row i of each forward or `generate` of this model is the thought of seed + i (or of seed[i]).

    Rows are those of the batch that the model sees: num_return_sequences are distinct.

    Args:
        model: A grafted model.
        creativity: One value or one a row; 0 is the base model.
        seed: Of the first row, or one a row.
        read: "each": every thought reads the prompt through its own branches; "shared": the base model reads it, and
            thoughts begin after it.
        prompt_lengths: Where that is, for forwards without a cache.

    Raises:
        InputError: The model has no graft at work, or there is no such way to read.
    """
    if read not in {"shared", "each"}:
        raise InputError(f"Unknown way to read {read!r}.", "Pass shared or each.")
    with use_context(require_graft(model), AdapterContext(creativity, seed, read, prompt_lengths)):
        yield


@contextmanager
def routed(
    model: nn.Module,
    weights: Tensor,
    creativity: float | Sequence[float] | Tensor = 1.0,
    prompt_lengths: int | Sequence[int] | Tensor | None = None,
    seed: int | Sequence[int] | Tensor | None = None,
) -> Iterator[None]:
    """Within, nothing is drawn: each row goes through the branches with these weights. For training and analysis.

    Args:
        model: A grafted model.
        weights: (b, branches), (branches,) for all rows alike, or (b, layers, branches); they may carry gradient.
        creativity: One value or one a row.
        prompt_lengths: Tokens before it are read by the base model.
        seed: Of noise; None: no noise.

    Raises:
        InputError: The model has no graft at work.
    """
    with use_context(require_graft(model), AdapterContext(creativity, seed, "each", prompt_lengths, weights)):
        yield
