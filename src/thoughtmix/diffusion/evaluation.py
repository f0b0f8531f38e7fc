"""How good a mask predictor is: its bound in nats and bits a character, with an interval over windows of text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.denoiser import rows_at_once
from thoughtmix.diffusion.objective import by_count, by_time, token_losses
from thoughtmix.diffusion.schedules import Schedule

Estimator = Literal["time", "count"]


@dataclass(frozen=True, slots=True)
class Bound:
    """nats a token; its 95% interval (percentile bootstrap over windows, the draws of masks included); bits a
    character; the mean of each window (n,); draws: masks drawn a window."""

    nats: float
    low: float
    high: float
    bits: float
    bits_low: float
    bits_high: float
    windows: np.ndarray[Any, Any]
    draws: int


def windows_of(ids: Tensor, length: int, count: int = 0) -> Tensor:
    """(n, length): windows side by side over the whole text, or `count` of them spread evenly."""
    if len(ids) < length:
        raise InputError(f"The text has {len(ids)} tokens, a window takes {length}.", "Pass a longer text (--data).")
    most = len(ids) // length
    starts = np.arange(most) * length
    if 0 < count < most:
        starts = np.unique(np.linspace(0, len(ids) - length, count).astype(int))
    return torch.stack([ids[s : s + length] for s in starts])


@torch.no_grad()
def evaluate(
    model: Any,
    windows: Tensor,
    mask_id: int,
    *,
    draws: int = 4,
    prefix: int = 0,
    estimator: Estimator = "time",
    schedule: Schedule | None = None,
    seed: int = 0,
    characters: float | None = None,
    batch_size: int | None = None,
) -> Bound:
    """The bound of windows (n, length), their first `prefix` tokens given. Times are stratified over all windows of a
    draw. characters: of all windows' counted tokens; None: one a token. batch_size None: 32, or what suits a CPU.
    Unbiased with either estimator (a test)."""
    n, length = windows.shape
    free = torch.ones_like(windows, dtype=torch.bool)
    free[:, :prefix] = False
    device = next(model.parameters()).device if hasattr(model, "parameters") else windows.device
    batch_size = batch_size or (rows_at_once(length) if device.type == "cpu" else 32)
    sums = np.zeros(n)
    for i in range(draws):
        draw = np.random.default_rng([seed, 17, i])
        masking = by_time(free, draw, schedule) if estimator == "time" else by_count(free, draw)
        for at in range(0, n, batch_size):
            rows = slice(at, at + batch_size)
            losses = token_losses(model, windows[rows].to(device), masking.masked[rows].to(device), mask_id)
            sums[rows] += (losses.double().sum(1).cpu() * masking.weight[rows]).numpy() / draws
    counted = length - prefix
    means = sums / counted
    boot = np.random.default_rng([seed, 18]).integers(0, n, (2000, n))
    low, high = np.quantile(means[boot].mean(1), [0.025, 0.975])
    bits = n * counted / (characters or n * counted) / math.log(2)
    mean = float(means.mean())
    return Bound(mean, float(low), float(high), mean * bits, float(low) * bits, float(high) * bits, means, draws)
