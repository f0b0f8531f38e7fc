"""Bytes while training and while decoding, and how many machines they need."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thoughtmix.cost.hardware import Kind
from thoughtmix.cost.size import Size

MOMENTS = 8
"""Bytes a trained parameter of AdamW's two moments, in float32."""
LOGIT = 8
"""Bytes a logit in training: its float32 value and gradient."""
ROOM = 0.9
"""The part of a machine's memory that may be planned; the rest is for work space and fragments."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. weights, gradients, optimizer and cache can be spread over machines; activations are each one's own."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    cache: float = 0.0

    @property
    def spread(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.cache

    @property
    def total(self) -> float:
        return self.spread + self.activations

    def machines(self, kind: Kind) -> int | None:
        """The fewest that hold it: state in equal parts (ZeRO stage 3, Rajbhandari et al. 2020), activations whole.
        None when the activations alone are too large for one."""
        left = ROOM * kind.memory * 1e9 - self.activations
        return max(1, math.ceil(self.spread / left)) if left > 0 else None


def training(
    size: Size, kind: Kind, trained: float, frozen: float, tokens: float, *, master: bool, checkpointing: bool
) -> Memory:
    """AdamW in mixed precision: weights and gradients in the machine's numbers, moments in float32, and float32 master
    weights where those numbers are smaller (16 bytes a parameter in all; Rajbhandari et al. 2020, section 3.1).

    tokens: held at once on one machine.
    """
    weights = kind.bytes * (trained + frozen)
    copy = 4 if master and kind.bytes < 4 else 0
    return Memory(
        weights=weights,
        gradients=kind.bytes * trained,
        optimizer=(MOMENTS + copy) * trained,
        activations=tokens * activations(size, kind.bytes, checkpointing=checkpointing),
    )


def activations(size: Size, bytes_: int, *, checkpointing: bool) -> float:
    """Bytes a token kept for the backward pass.

    Korthikanti et al. 2022, equation 2, without dropout masks and with scores not kept (fused attention: Dao et al.
    2022), for grouped keys, gated feed-forwards and routed experts: a block keeps both norms' input and output, q, k, v
    and what attention gives, and each inner map's output before and after what follows it. For a plain block of
    width d that is 16 d numbers. Checkpointing keeps each block's input, and one block whole at a time.
    """
    head = LOGIT * size.vocabulary
    if not checkpointing:
        return bytes_ * size.kept + head
    largest = max((block.kept for block in size.blocks), default=0)
    return bytes_ * (size.width * len(size.blocks) + largest) + head


def reading(size: Size, kind: Kind, parameters: float, tokens: float) -> Memory:
    """A forward pass that keeps nothing: weights and one block's numbers. tokens: at once on one machine."""
    largest = max((block.kept for block in size.blocks), default=0)
    return Memory(weights=kind.bytes * parameters, activations=kind.bytes * tokens * largest)


def decoding(size: Size, kind: Kind, parameters: float, prompt: float, own: float, rows: int) -> Memory:
    """n rows after one shared prompt: its keys and values once, each row's own `own` tokens."""
    cache = kind.bytes * (size.cache(prompt) + rows * size.cache(own))
    largest = max((block.kept for block in size.blocks), default=0)
    steps = rows * (kind.bytes * largest + 4 * size.vocabulary)  # one token a row, and its float32 logits
    return Memory(weights=kind.bytes * parameters, cache=cache, activations=steps)
