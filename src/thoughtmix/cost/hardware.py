"""Machines: what one multiplies, holds and costs, and the bytes that training and decoding put into it.

The figures and their sources are in hardware.toml.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from typing import Any

from thoughtmix.core.errors import UnknownName
from thoughtmix.cost.size import Size

DEFAULT = "h100"
MOMENT_BYTES = 8
"""A trained parameter's two moments of AdamW, in float32."""
LOGIT_BYTES = 8
"""A logit in training: its float32 value and gradient."""
USABLE = 0.9
"""The part of a machine's memory that may be planned; the rest is for work space and fragments."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One kind of accelerator, or of computer without one."""

    name: str
    title: str
    tflops: float  # dense peak in the numbers used, 10^12 FLOP/s
    memory: float  # GB (10^9 bytes)
    bandwidth: float  # of that memory, GB/s
    bytes: int  # of a number in training and decoding
    utilisation: float  # the part of the peak that training reaches
    price: float  # US dollars an hour for one, at `place` on the day `dated`
    place: str
    dated: date

    @property
    def is_cpu(self) -> bool:
        return self.name.startswith("cpu")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**dataclasses.asdict(self), "dated": self.dated.isoformat()}


@functools.cache
def load_machines() -> dict[str, Machine]:
    """Every machine by name, in the order of the file."""
    body = tomllib.loads(files(__package__).joinpath("hardware.toml").read_text(encoding="utf-8"))
    return {name: Machine(name=name, **facts) for name, facts in body.items()}


def get_machine(name: str) -> Machine:
    """Raises `UnknownName`."""
    if name not in load_machines():
        raise UnknownName("kind of GPU", name, load_machines())
    return load_machines()[name]


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

    def machines_needed(self, machine: Machine) -> int | None:
        """The fewest that hold it: state in equal parts (ZeRO stage 3, Rajbhandari et al. 2020), activations whole.
        None when the activations alone are too large for one."""
        left = USABLE * machine.memory * 1e9 - self.activations
        return max(1, math.ceil(self.spread / left)) if left > 0 else None


def training(
    size: Size, machine: Machine, trained: float, frozen: float, tokens: float, *, master: bool, checkpointing: bool
) -> Memory:
    """AdamW in mixed precision: weights and gradients in the machine's numbers, moments in float32, and float32 master
    weights where those numbers are smaller (16 bytes a parameter in all; Rajbhandari et al. 2020, section 3.1).

    tokens: held at once on one machine.
    """
    weights = machine.bytes * (trained + frozen)
    copy = 4 if master and machine.bytes < 4 else 0
    return Memory(
        weights=weights,
        gradients=machine.bytes * trained,
        optimizer=(MOMENT_BYTES + copy) * trained,
        activations=tokens * activations(size, machine.bytes, checkpointing=checkpointing),
    )


def activations(size: Size, bytes_: int, *, checkpointing: bool) -> float:
    """Bytes a token kept for the backward pass.

    Korthikanti et al. 2022, equation 2, without dropout masks and with scores not kept (fused attention: Dao et al.
    2022), for grouped keys, gated feed-forwards and routed experts: a block keeps both norms' input and output, q, k, v
    and what attention gives, and each inner map's output before and after what follows it. For a plain block of
    width d that is 16 d numbers. Checkpointing keeps each block's input, and one block whole at a time.
    """
    head = LOGIT_BYTES * size.vocabulary
    if not checkpointing:
        return bytes_ * size.saved + head
    largest = max((block.saved for block in size.blocks), default=0)
    return bytes_ * (size.width * len(size.blocks) + largest) + head


def inference(size: Size, machine: Machine, parameters: float, tokens: float) -> Memory:
    """A forward pass that keeps nothing: weights and one block's numbers. tokens: at once on one machine."""
    largest = max((block.saved for block in size.blocks), default=0)
    return Memory(weights=machine.bytes * parameters, activations=machine.bytes * tokens * largest)


def decoding(size: Size, machine: Machine, parameters: float, prompt: float, own: float, rows: int) -> Memory:
    """n rows after one shared prompt: its keys and values once, each row's own `own` tokens."""
    cache = machine.bytes * (size.cache(prompt) + rows * size.cache(own))
    largest = max((block.saved for block in size.blocks), default=0)
    steps = rows * (machine.bytes * largest + 4 * size.vocabulary)  # one token a row, and its float32 logits
    return Memory(weights=machine.bytes * parameters, cache=cache, activations=steps)
