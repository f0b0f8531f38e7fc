"""What the sampler needs of a model, and our own model as such a thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError

Memory = dict[str, Tensor]
"""What a denoiser keeps between steps, every tensor with rows first; it travels with the rows."""


@runtime_checkable
class Denoiser(Protocol):
    """mask_id: what undecided positions hold; None: they hold random tokens (uniform noise), new ones at each step.
    forbidden: ids that are never drawn (the mask is among them). vocab: logits' width."""

    @property
    def vocab(self) -> int: ...
    @property
    def mask_id(self) -> int | None: ...
    @property
    def forbidden(self) -> Sequence[int]: ...
    @property
    def device(self) -> torch.device: ...

    def __call__(self, ids: Tensor, attention_mask: Tensor, memory: Memory) -> Tensor:
        """ids (b, t), attention_mask (b, t) bool -> logits (b, t, v). Row i may depend on row i alone. May read what it
        left in `memory` at the step before, and must put the new values there."""
        ...


_TOKENS = 384  # that a CPU reads at once: a small model's activations of more fall out of its cache (1.4 times slower)


def rows_at_once(length: int) -> int:
    """Rows of this many tokens in one forward on a CPU."""
    return max(1, _TOKENS // max(1, length))


class MaskPredictor:
    """Any `model(ids, attention_mask).logits` that fills in `mask_id`: ours, or a function of ids and mask that
    returns logits."""

    def __init__(
        self,
        model: Any,
        mask_id: int,
        vocab: int,
        forbidden: Sequence[int] = (),
        device: torch.device | str | None = None,
    ) -> None:
        if not 0 <= mask_id < vocab:
            raise InputError(f"mask_id {mask_id} is outside the vocabulary of {vocab}.", "Pass an id below vocab.")
        self.model, self.mask_id, self.vocab = model, mask_id, vocab
        self.forbidden = sorted({mask_id, *forbidden})
        own = getattr(model, "device", None)
        self.device = torch.device(device or (own if isinstance(own, (str, torch.device)) else "cpu"))
        if len(self.forbidden) >= vocab:
            raise InputError("Every token is forbidden.", "Forbid fewer.")

    def __call__(self, ids: Tensor, attention_mask: Tensor, memory: Memory) -> Tensor:
        rows = len(ids) if ids.device.type != "cpu" else rows_at_once(ids.shape[1])
        parts = [self.model(*part) for part in zip(ids.split(rows), attention_mask.split(rows), strict=True)]
        logits = [part if isinstance(part, Tensor) else part.logits for part in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)


def own_denoiser(model: Any) -> MaskPredictor:
    """Of a `MaskedDiffusionTransformer`."""
    c = model.config
    unknown = () if c.unknown_token_id is None else (c.unknown_token_id,)
    return MaskPredictor(model, c.mask_token_id, c.vocab_size, unknown)
