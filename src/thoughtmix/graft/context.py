"""What a grafted model is asked for, and what the rows of one forward then go through.

An episode begins with a forward whose cache is absent or empty. The state of its rows then stays with that cache (and
moves with it, under beam search), so that a thought keeps its route and noise from token to token.

Axis letters: b rows, t tokens, l layers that draw a route (1 where the model has one), L grafted layers, k branches, s
of them drawn, r rank, f inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.engine.row_state import Read
from thoughtmix.graft.config import MoTConfig
from thoughtmix.mixture.state import BranchState


class AttachedGraft(Protocol):
    """What a grafted layer asks of the graft that it is part of."""

    @property
    def config(self) -> MoTConfig: ...

    @property
    def adapter(self) -> str:
        """The name by which PEFT knows it."""
        ...

    drawn: int
    """Rows of training forwards so far: each draws anew."""

    def forward_context(self) -> ForwardContext | None:
        """Of the forward that is under way; None: the model is left as it is."""
        ...

    def close(self) -> None:
        """Take the hooks off."""
        ...


@dataclass(frozen=True)
class AdapterContext:
    """Whose thoughts the rows of the next episodes are: see `thoughts` and `routed`.

    weights: (b, k), (k,) or (b, l, k) in place of drawn routes; seed is then that of noise, None for none.
    """

    creativity: float | Sequence[float] | Tensor = 1.0
    seed: int | Sequence[int] | Tensor | None = 0
    read: Read = "each"
    prompt_lengths: int | Sequence[int] | Tensor | None = None
    weights: Tensor | None = None

    def begin(
        self, b: int, device: torch.device, use_cache: bool, length: Tensor, config: MoTConfig, layers: int
    ) -> BranchState:
        """The state of b rows of a forward that begins.

        Args:
            length: (b,), real tokens of the forward.
            layers: How many are grafted.

        Raises:
            InputError: Something does not fit the rows.
        """
        prompt: Any = 0 if self.prompt_lengths is None else self.prompt_lengths
        if self.read == "shared" and self.prompt_lengths is None:
            if not use_cache:
                raise InputError(
                    'Without a cache it is not known where the prompt ends (read="shared").',
                    'Pass prompt_lengths, or read="each", or use_cache=True.',
                )
            prompt = length
        creativity = _one_a_row("creativity", self.creativity, b)
        prompts = _one_a_row("prompt_lengths", prompt, b)
        state = BranchState.create(self._seeds(b), creativity, prompts, device, use_cache)
        if self.weights is not None:
            state.cache["weight"] = self._route_weights(self.weights.to(device).float(), b, config.num_branches, layers)
            if self.seed is not None:
                state.cache["noisy"] = torch.ones_like(state.creativity)
        return state

    def _seeds(self, b: int) -> Sequence[int] | Tensor:
        if self.seed is None:
            return range(b)
        if isinstance(self.seed, int):
            return range(self.seed, self.seed + b)
        if len(self.seed) != b:
            raise InputError(f"{len(self.seed)} seeds for {b} rows.", "Pass the first seed alone, or one a row.")
        return self.seed

    @staticmethod
    def _route_weights(weights: Tensor, b: int, k: int, layers: int) -> Tensor:
        """(b, l, k)"""
        given = tuple(weights.shape)
        weights = weights.expand(b, -1) if weights.ndim == 1 else weights
        weights = weights[:, None] if weights.ndim == 2 else weights
        if weights.shape[0] != b or weights.shape[1] not in {1, layers} or weights.shape[2] != k:
            raise InputError(
                f"weights has shape {given} for {b} rows and {k} branches.",
                f"Pass ({b}, {k}), or ({b}, {layers}, {k}): of each layer.",
            )
        return weights


def _one_a_row(name: str, value: Any, b: int) -> Tensor:
    given = torch.as_tensor(value)
    if given.ndim > 1 or given.numel() not in {1, b}:
        raise InputError(f"{name} has {given.numel()} values for {b} rows.", "Pass one value, or one a row.")
    if not bool(((given >= 0) & (given < torch.inf)).all()):
        raise InputError(f"{name} is {value}.", "Pass 0 or more.")
    return given.reshape(-1).expand(b)


_CONTEXTS: ContextVar[tuple[tuple[object, AdapterContext], ...]] = ContextVar("thoughtmix_adapter_contexts", default=())


def adapter_context(graft: object) -> AdapterContext | None:
    """The innermost context of this graft."""
    return next((context for owner, context in reversed(_CONTEXTS.get()) if owner is graft), None)


@contextmanager
def use_context(graft: object, context: AdapterContext) -> Iterator[None]:
    """Within, forwards of this graft in this thread are as the context says."""
    token = _CONTEXTS.set((*_CONTEXTS.get(), (graft, context)))
    try:
        yield
    finally:
        _CONTEXTS.reset(token)


@dataclass
class ForwardContext:
    """One forward: found before the first block and read by every grafted layer, so that nothing is drawn inside a
    block and recomputing one (gradient checkpointing) finds what the forward found.

    The cache of the state holds `weight` (b, l, k) of each branch, with `branch` and `log_weight` (b, l, s) where the
    route was drawn; `scale` (b, l, k r), creativity times weight; `noise` (b, L, k r) that is held; `noisy` (b,), whose
    rows draw fresh noise; `sum` (b, f) over the prompt, for routers that read it; `length` (b,) of what was read first.
    """

    state: BranchState
    b: int
    t: int
    positions: Tensor  # (b, t)
    moved: Tensor | None  # (b, t) bool: where thoughts go their ways; None: everywhere
    mask: Tensor | None  # (b, t), 0 where padded; None: nowhere
    read_prompt: Callable[[ForwardContext, Tensor], None]  # shows the router what the first layer sees, (b, t, f)
    kept: int = 0  # above 0: layers may go on with this many last tokens (Gemma 4's, whose keys others share)
    idle: bool = False  # nothing is added anywhere: only the router may want to see what is read
    routed: bool = False  # the route was drawn by what the first layer saw
    learns: bool = False  # gradient flows from this forward to what it drew

    def adds(self, number: int, x: Tensor) -> bool:
        """Whether layer `number` has something to add to x; the first one completes the context by what it sees."""
        if self.learns and not torch.is_grad_enabled() and not recomputing():
            raise InputError(
                "Checkpointing with use_reentrant=True loses the gradients of routes and noise, which blocks share.",
                'Pass gradient_checkpointing_kwargs={"use_reentrant": False}.',
            )
        again = self.routed and recomputing()  # what is computed again must be the same
        if number == 0 and (again or not (self.routed or "scale" in self.state.cache)):  # once, where layers recur
            self.routed = True
            self.read_prompt(self, self.by_row(x))
        return not self.idle

    def by_row(self, x: Tensor) -> Tensor:
        """(b, t, ...) again, where a block has flattened rows and tokens into one axis."""
        if x.ndim == 3 and len(x) == self.b and x.shape[1] in {self.t, self.kept or self.t}:
            return x
        if x.ndim == 2 and len(x) == self.b * self.t:
            return x.view(self.b, self.t, -1)
        raise InputError(
            f"A grafted block got {tuple(x.shape)} for {self.b} rows of {self.t} tokens, so rows cannot be told apart.",
            "Graft other modules (target_modules=).",
        )

    def add(self, y: Tensor, delta: Tensor) -> Tensor:
        """y + delta; bit for bit y where thoughts do not differ."""
        delta = delta.view(y.shape).to(y.dtype)
        if self.moved is None:
            return y + delta
        tokens = y.numel() // y.shape[-1] // self.b
        return torch.where(self.moved[:, -tokens:].reshape(*y.shape[:-1], 1), y + delta, y)

    def of_layer(self, name: str, number: int) -> Tensor:
        """A tensor of the cache whose second axis is l, at layer `number`: (b, ...)."""
        x = self.state.cache[name]
        return x[:, number if x.shape[1] > 1 else 0]


def recomputing() -> bool:
    """Whether this is a forward within a backward: gradient checkpointing."""
    return bool(torch._C._current_graph_task_id() != -1)
