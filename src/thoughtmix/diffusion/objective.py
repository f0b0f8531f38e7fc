"""The exact bound that a mask predictor is trained on, as a loss.

-log p(x) <= E_t [ weight(t) * sum over masked i of -log p(x_i | x_t) ],  t ~ U(0, 1], each token masked with
probability 1 - alpha(t) (MDLM, Sahoo et al. 2024, eq. 10; MD4, Shi et al. 2024, eq. 4). The same number without t
(Ou et al. 2025, RADD; LLaDA, Nie et al. 2025, eq. 14): E_k [ L / k * sum over k masked tokens ], k ~ U{1..L}, since
integrating t out leaves 1 / k for each set of k masked tokens. That one has less variance, whatever the schedule.

With a clean prefix it bounds -log p(rest | prefix): prefix tokens are never masked and never counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.diffusion.schedules import Linear, Schedule


@dataclass(frozen=True)
class Masking:
    """Which tokens of a batch are hidden, and what their cross-entropies count.

    masked (b, t) bool. weight (b,): the row's sum over masked tokens times this estimates the bound of the row, nats.
    """

    masked: Tensor
    weight: Tensor


def stratified(count: int, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """`count` numbers in (0, 1], one in each of as many equal parts, in random order: each is uniform."""
    return 1 - (draw.permutation(count) + draw.random(count)) / count


def by_time(free: Tensor, draw: np.random.Generator, schedule: Schedule | None = None) -> Masking:
    """Each free token (b, t) masked independently at its row's time; times stratified over the rows."""
    schedule = schedule or Linear()
    t = torch.from_numpy(stratified(len(free), draw))
    hidden = torch.from_numpy(draw.random(tuple(free.shape))) < (1 - schedule.alpha(t))[:, None]
    return Masking(hidden & free, schedule.weight(t).float())


def by_count(free: Tensor, draw: np.random.Generator) -> Masking:
    """Exactly k of a row's n free tokens masked, k uniform in 1..n and stratified over the rows; weight n / k."""
    n = free.sum(1)
    u = torch.from_numpy(stratified(len(free), draw))
    k = (u * n).ceil().clamp(min=1)
    order = torch.from_numpy(draw.random(tuple(free.shape))).masked_fill(~free, 2.0)
    rank = order.argsort(1).argsort(1)
    return Masking((rank < k[:, None]) & free, (n / k).float())


def token_losses(model: Any, ids: Tensor, masked: Tensor, mask_id: int, attention_mask: Tensor | None = None) -> Tensor:
    """(b, t) cross-entropies, nats, of the masked tokens; 0 elsewhere."""
    logits = model(ids.masked_fill(masked, mask_id), attention_mask).logits
    losses = torch.zeros(ids.shape, device=ids.device)
    losses[masked] = F.cross_entropy(logits[masked].float(), ids[masked], reduction="none")
    return losses


def bound_loss(losses: Tensor, masking: Masking, free: Tensor, weighting: str = "bound") -> Tensor:
    """What training makes small: nats a free token, every free token of the batch counted alike.

    losses (b, t) of `token_losses`. weighting "bound": unbiased for the bound. "uniform": the mean cross-entropy of a
    masked token; no bound, an ablation (it favours the noisy times, as most discrete diffusion before MDLM did).
    """
    if weighting == "uniform":
        return losses.sum() / masking.masked.sum().clamp(min=1)
    return (losses.sum(1) * masking.weight).sum() / free.sum()
