"""How much of a text is masked at each time, and how much of what was kept is masked again.

At time t in [0, 1] a token is still there with probability alpha(t). The bound does not depend on the schedule (Sahoo
et al. 2024, MDLM, 3.4; Shi et al. 2024, MD4, 4); its variance, and what a sampler sees at each of its steps, do.

Remasking (ReMDM, Wang et al. 2025) mends early mistakes. Between times t and s < t a kept token is masked again with
probability sigma, at most (1 - alpha_s) / alpha_t (eq. 7); masked ones are kept at the rate that leaves the right share
masked, (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t).
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


def make_schedule(name: str) -> Schedule:
    """The schedule of a name: linear, cosine, or polynomial with its power: poly2, poly3, ...

    Raises:
        UnknownName: For any other name.
    """
    if name.startswith("poly") and name[4:].replace(".", "", 1).isdigit():
        return Polynomial(float(name[4:]))
    known = {"linear": Linear, "cosine": Cosine, "polynomial": Polynomial}
    if name not in known:
        raise UnknownName("schedule", name, [*known, "poly3"])
    return known[name]()


REMASK_KINDS = ("cap", "rescale", "confidence", "loop")
_ETA = {"cap": 0.008, "rescale": 0.015, "confidence": 1.0, "loop": 0.02}  # the paper's own settings


@dataclass(frozen=True)
class Remask:
    """How tokens already kept are masked again.

    Args:
        kind: cap (sigma is eta, or the most possible where that is less), rescale (eta times the most possible),
            confidence (the most possible, shared out over the kept tokens by softmax of minus their probability when
            kept), or loop (from time `on` to `off` the share of kept tokens stays at `level`, and sigma is eta).
        eta: How strongly; None: the paper's setting.

    Raises:
        UnknownName: For another kind.
        InputError: For numbers out of range.
    """

    kind: str = "cap"
    eta: float | None = None
    on: float = 0.55
    off: float = 0.05
    level: float = 0.9

    def __post_init__(self) -> None:
        if self.kind not in REMASK_KINDS:
            raise UnknownName("remasking", self.kind, REMASK_KINDS)
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise InputError(f"eta is {self.eta}.", "Pass 0 to 1.")
        if not (0 <= self.off < self.on < 1 and 0 < self.level < 1):
            raise InputError("The loop's times do not fit.", "Pass 0 <= off < on < 1 and a level between 0 and 1.")

    def alpha(self, t: Tensor, schedule: Schedule) -> Tensor:
        """The share kept at time t (b,): the schedule's, but for the loop."""
        if self.kind != "loop":
            return schedule.alpha(t)
        rising = self.level * (1 - t) / (1 - self.on)
        ending = 1 - (1 - self.level) * t / max(self.off, 1e-12)
        return torch.where(t > self.on, rising, torch.where(t > self.off, self.level, ending))

    def sigma(self, t: Tensor, alpha_t: Tensor, alpha_s: Tensor, confidence: Tensor, kept: Tensor) -> Tensor:
        """(b, t) probability of masking again, for each kept token; t, alpha_t and alpha_s are (b,)."""
        eta = _ETA[self.kind] if self.eta is None else self.eta
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1)
        if self.kind == "confidence":
            share = (-confidence.double()).masked_fill(~kept, -torch.inf).softmax(1).nan_to_num(0.0)
            return eta * most[:, None] * share
        value = eta * most if self.kind == "rescale" else most.clamp(max=eta)
        if self.kind == "loop":
            value = torch.where((t <= self.on) & (t > self.off), value, 0.0)
        return value[:, None].expand(kept.shape) * kept
