"""The exact bound that a mask predictor is trained on, as a loss and as a measure of how good the model is.

-log p(x) <= E_t [ weight(t) * sum over masked i of -log p(x_i | x_t) ],  t ~ U(0, 1], each token masked with
probability 1 - alpha(t) (MDLM, Sahoo et al. 2024, eq. 10; MD4, Shi et al. 2024, eq. 4). The same number without t
(Ou et al. 2025, RADD; LLaDA, Nie et al. 2025, eq. 14): E_k [ L / k * sum over k masked tokens ], k ~ U{1..L}, since
integrating t out leaves 1 / k for each set of k masked tokens. That one has less variance, whatever the schedule.

With a clean prefix it bounds -log p(rest | prefix): prefix tokens are never masked and never counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.denoiser import rows_at_once
from thoughtmix.diffusion.schedules import Linear, Schedule


@dataclass(frozen=True)
class Masking:
    """Which tokens of a batch are hidden, and what their cross-entropies count."""

    masked: Tensor  # (b, t) bool
    weight: Tensor  # (b,): times the row's sum over masked tokens, it estimates the bound of the row in nats


def stratified(count: int, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """`count` numbers in (0, 1], one in each of as many equal parts, in random order: each is uniform."""
    return 1 - (draw.permutation(count) + draw.random(count)) / count


def mask_by_time(free: Tensor, draw: np.random.Generator, schedule: Schedule | None = None) -> Masking:
    """Mask each free token (b, t) independently at its row's time; times are stratified over the rows."""
    schedule = schedule or Linear()
    t = torch.from_numpy(stratified(len(free), draw))
    hidden = torch.from_numpy(draw.random(tuple(free.shape))) < (1 - schedule.alpha(t))[:, None]
    return Masking(hidden & free, schedule.weight(t).float())


def mask_by_count(free: Tensor, draw: np.random.Generator) -> Masking:
    """Mask exactly k of a row's n free tokens, k uniform in 1..n and stratified over the rows; the weight is n / k."""
    n = free.sum(1)
    u = torch.from_numpy(stratified(len(free), draw))
    k = (u * n).ceil().clamp(min=1)
    order = torch.from_numpy(draw.random(tuple(free.shape))).masked_fill(~free, 2.0)
    rank = order.argsort(1).argsort(1)
    return Masking((rank < k[:, None]) & free, (n / k).float())


def token_losses(model: Any, ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """(b, t) cross-entropies, nats, of the masked tokens; 0 elsewhere."""
    logits = model(ids.masked_fill(masked, mask_id)).logits
    losses = torch.zeros(ids.shape, device=ids.device)
    losses[masked] = F.cross_entropy(logits[masked].float(), ids[masked], reduction="none")
    return losses


def bound_loss(losses: Tensor, masking: Masking, free: Tensor, weighting: str = "bound") -> Tensor:
    """What training makes small: nats a free token, every free token of the batch counted alike.

    Args:
        losses: (b, t) of `token_losses`.
        masking: What was hidden.
        free: (b, t) bool, the tokens that count.
        weighting: "bound" is unbiased for the bound. "uniform" is the mean cross-entropy of a masked token: no bound,
            an ablation (it favours the noisy times, as most discrete diffusion before MDLM did).
    """
    if weighting == "uniform":
        return losses.sum() / masking.masked.sum().clamp(min=1)
    return (losses.sum(1) * masking.weight).sum() / free.sum()


@dataclass(frozen=True, slots=True)
class Bound:
    """The bound of a model on a text, with 95% intervals (percentile bootstrap over windows, the draws of masks
    included)."""

    nats: float  # a token
    low: float
    high: float
    bits: float  # a character
    bits_low: float
    bits_high: float
    windows: np.ndarray[Any, Any]  # (n,): the mean of each window, nats a token


def split_windows(ids: Tensor, length: int, count: int = 0) -> Tensor:
    """(n, length): windows side by side over the whole text, or `count` of them spread evenly.

    Raises:
        InputError: When the text is shorter than a window.
    """
    if len(ids) < length:
        raise InputError(f"The text has {len(ids)} tokens, a window takes {length}.", "Pass a longer text (--data).")
    most = len(ids) // length
    starts = np.arange(most) * length
    if 0 < count < most:
        starts = np.unique(np.linspace(0, len(ids) - length, count).astype(int))
    return torch.stack([ids[s : s + length] for s in starts])


@torch.no_grad()
def evaluate_bound(
    model: Any,
    windows: Tensor,
    mask_id: int,
    *,
    draws: int = 4,
    prefix: int = 0,
    estimator: Literal["time", "count"] = "time",
    schedule: Schedule | None = None,
    seed: int = 0,
    characters: float | None = None,
    batch_size: int | None = None,
) -> Bound:
    """The bound of windows of text; unbiased with either estimator.

    Args:
        windows: (n, length) token ids.
        draws: Masks drawn a window; times are stratified over all windows of a draw.
        prefix: Tokens of each window that are given.
        characters: Of all windows' counted tokens. None: one a token.
        batch_size: None: 32, or what suits a CPU.
    """
    n, length = windows.shape
    free = torch.ones_like(windows, dtype=torch.bool)
    free[:, :prefix] = False
    device = next(model.parameters()).device if hasattr(model, "parameters") else windows.device
    batch_size = batch_size or (rows_at_once(length) if device.type == "cpu" else 32)
    sums = np.zeros(n)
    for i in range(draws):
        draw = np.random.default_rng([seed, 17, i])
        masking = mask_by_time(free, draw, schedule) if estimator == "time" else mask_by_count(free, draw)
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
    return Bound(mean, float(low), float(high), mean * bits, float(low) * bits, float(high) * bits, means)
