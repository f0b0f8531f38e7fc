"""Saying which thoughts a forward, or a whole `generate`, is to have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thoughtmix.core.errors import InputError
from thoughtmix.mixture.state import Rows

if TYPE_CHECKING:
    from thoughtmix.engine.row_state import Read
    from thoughtmix.graft.rows import Graft


@dataclass(frozen=True, eq=False)
class Asked:
    """Wishes for the rows of the next episodes. weights: (b, k), (k,) or (b, l, k) in place of drawn routes."""

    graft: Graft
    creativity: float | Sequence[float] | Tensor = 1.0
    seed: int | Sequence[int] | Tensor | None = 0
    read: Read = "each"
    prompt_lengths: int | Sequence[int] | Tensor | None = None
    weights: Tensor | None = None

    def rows(self, graft: Graft, b: int, device: torch.device, cache: Any, length: Tensor) -> Rows:
        """length (b,): real tokens of the forward that begins. Raises `InputError` for what does not fit."""
        prompt: Any = 0 if self.prompt_lengths is None else self.prompt_lengths
        if self.read == "shared" and self.prompt_lengths is None:
            if cache is None:
                raise InputError(
                    'Without a cache it is not known where the prompt ends (read="shared").',
                    'Pass prompt_lengths, or read="each", or use_cache=True.',
                )
            prompt = length
        fixed = self.weights is not None
        rows = Rows.of(
            self._seeds(b), _fits("creativity", self.creativity, b), _fits("prompt_lengths", prompt, b), device,
            remember=cache is not None,
        )  # fmt: skip
        if fixed:
            rows.memory["weight"] = self._weights(graft, b, device)
            if self.seed is not None:
                rows.memory["noisy"] = torch.ones_like(rows.creativity)
        return rows

    def _seeds(self, b: int) -> Any:
        if self.seed is None:
            return range(b)
        if isinstance(self.seed, int):
            return range(self.seed, self.seed + b)
        if len(self.seed) != b:
            raise InputError(f"{len(self.seed)} seeds for {b} rows.", "Pass the first seed alone, or one a row.")
        return self.seed

    def _weights(self, graft: Graft, b: int, device: torch.device) -> Tensor:
        """(b, l, k)"""
        assert self.weights is not None
        weights = self.weights.to(device).float()
        weights = weights.expand(b, -1) if weights.ndim == 1 else weights
        weights = weights[:, None] if weights.ndim == 2 else weights
        k, layers = graft.config.num_branches, len(graft.layers)
        if weights.shape[0] != b or weights.shape[1] not in {1, layers} or weights.shape[2] != k:
            raise InputError(
                f"weights has shape {tuple(self.weights.shape)} for {b} rows and {k} branches.",
                f"Pass ({b}, {k}), or ({b}, {layers}, {k}): of each layer.",
            )
        return weights


def _fits(name: str, value: Any, b: int) -> Tensor:
    given = torch.as_tensor(value)
    if given.ndim > 1 or given.numel() not in {1, b}:
        raise InputError(f"{name} has {given.numel()} values for {b} rows.", "Pass one value, or one a row.")
    if not bool(((given >= 0) & (given < torch.inf)).all()):
        raise InputError(f"{name} is {value}.", "Pass 0 or more.")
    return given.reshape(-1).expand(b)


_ASKED: ContextVar[tuple[Asked, ...]] = ContextVar("thoughtmix_graft_asked", default=())


def asked(graft: Graft) -> Asked | None:
    """The innermost wish for this graft."""
    return next((wish for wish in reversed(_ASKED.get()) if wish.graft is graft), None)


@contextmanager
def _asking(wish: Asked) -> Iterator[None]:
    token = _ASKED.set((*_ASKED.get(), wish))
    try:
        yield
    finally:
        _ASKED.reset(token)


def graft_of(model: nn.Module) -> Graft | None:
    """The graft at work in a model, in a PEFT model around one, or in a base model that PEFT has changed."""
    for module in model.modules():
        found: Graft | None = getattr(module, "thought_graft", None)
        if found is not None:
            return found
    return None


def grafted(model: nn.Module) -> Graft:
    """As `graft_of`; raises `InputError` when there is none."""
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

    creativity: 0 is the base model, one value or one a row. read: each thought reads the prompt through its own
    branches, or (shared) the prompt is read by the base model and thoughts begin after it; `prompt_lengths` says where,
    for forwards without a cache. Rows are those of the batch that the model sees: num_return_sequences are distinct.
    """
    if read not in {"shared", "each"}:
        raise InputError(f"Unknown way to read {read!r}.", "Pass shared or each.")
    with _asking(Asked(grafted(model), creativity, seed, read, prompt_lengths)):
        yield


@contextmanager
def routed(
    model: nn.Module,
    weights: Tensor,
    creativity: float | Sequence[float] | Tensor = 1.0,
    prompt_lengths: int | Sequence[int] | Tensor | None = None,
    seed: int | Sequence[int] | Tensor | None = None,
) -> Iterator[None]:
    """Within, nothing is drawn: each row goes through the branches with these weights.

    weights (b, k), (k,) for all rows alike, or (b, layers, k); they may carry gradient. prompt_lengths: tokens before
    it are read by the base model. seed: of noise; None: no noise. For training and analysis.
    """
    with _asking(Asked(grafted(model), creativity, seed, "each", prompt_lengths, weights)):
        yield
