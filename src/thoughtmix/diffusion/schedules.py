"""How fast a text is forgotten: at time t in [0, 1] a token is still there with probability alpha(t).

The bound does not depend on the schedule (Sahoo et al. 2024, MDLM, 3.4; Shi et al. 2024, MD4, 4); its variance, and
what a sampler sees at each of its steps, do.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName


class Schedule(ABC):
    """alpha falls from 1 at t=0 to 0 at t=1. Tensors in, tensors out."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def weight(self, t: Tensor) -> Tensor:
        """-alpha'(t) / (1 - alpha(t)): what a masked token's cross-entropy counts in the bound."""
        ...


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha = 1 - t^power; the weight is power / t."""

    power: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.power < math.inf:
            raise InputError(f"A schedule's power of {self.power}.", "Pass more than 0.")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t**self.power

    def weight(self, t: Tensor) -> Tensor:
        return self.power / t


@dataclass(frozen=True)
class Linear(Polynomial):
    """alpha = 1 - t, the weight is 1 / t."""

    power: float = 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = 1 - cos(pi/2 (1 - t)): little at first when denoising (Chang et al. 2022; MD4, table 1)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - torch.cos(math.pi / 2 * (1 - t))

    def weight(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.tan(math.pi / 2 * (1 - t))


def schedule(name: str) -> Schedule:
    """linear, cosine, or polynomial with its power: poly2, poly3, ... Raises `UnknownName`."""
    if name.startswith("poly") and name[4:].replace(".", "", 1).isdigit():
        return Polynomial(float(name[4:]))
    known = {"linear": Linear, "cosine": Cosine, "polynomial": Polynomial}
    if name not in known:
        raise UnknownName("schedule", name, [*known, "poly3"])
    return known[name]()
