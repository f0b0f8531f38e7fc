"""Taking back tokens already kept, so that early mistakes can be mended (ReMDM, Wang et al. 2025).

Between times t and s < t a kept token is masked again with probability sigma, at most (1 - alpha_s) / alpha_t (eq. 7);
masked ones are kept at the rate that leaves the right share masked, (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.diffusion.schedules import Schedule

KINDS = ("cap", "rescale", "confidence", "loop")
_ETA = {"cap": 0.008, "rescale": 0.015, "confidence": 1.0, "loop": 0.02}  # the paper's own settings


@dataclass(frozen=True)
class Remask:
    """kind: cap (sigma = min(eta, most)), rescale (eta times most), confidence (most, shared out over the kept tokens
    by softmax of minus their probability when kept), loop (in the times from `on` to `off` the share of kept tokens
    stays at `level`, and sigma is eta). eta None: the paper's."""

    kind: str = "cap"
    eta: float | None = None
    on: float = 0.55
    off: float = 0.05
    level: float = 0.9

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownName("remasking", self.kind, KINDS)
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
        """(b, t) probability for each kept token; t, alpha_t, alpha_s (b,)."""
        eta = _ETA[self.kind] if self.eta is None else self.eta
        most = ((1 - alpha_s) / alpha_t.clamp(min=1e-12)).clamp(max=1)
        if self.kind == "confidence":
            share = (-confidence.double()).masked_fill(~kept, -torch.inf).softmax(1).nan_to_num(0.0)
            return eta * most[:, None] * share
        value = eta * most if self.kind == "rescale" else most.clamp(max=eta)
        if self.kind == "loop":
            value = torch.where((t <= self.on) & (t > self.off), value, 0.0)
        return value[:, None].expand(kept.shape) * kept
