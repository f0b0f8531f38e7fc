"""The combiner: attention across the branches of one position. No position sees another, so nothing leaks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentionCombiner(nn.Module):
    """softmax_s(q(x) . k(y_s) / sqrt(r) + log w_s) mixes the outputs y_s; rank=0: the router's weights w_s alone."""

    def __init__(self, hidden_size: int, rank: int = 16) -> None:
        super().__init__()
        self.rank = rank
        self.query = nn.Linear(hidden_size, rank, bias=False) if rank else None
        self.key = nn.Linear(hidden_size, rank, bias=False) if rank else None

    def forward(self, x: Tensor, outputs: Tensor, log_weight: Tensor) -> Tensor:
        """Mix the branches' outputs at each of n tokens.

        Args:
            x: (n, d), what the branches read.
            outputs: (n, s, d).
            log_weight: (n, s), the router's; -inf where inactive.

        Returns:
            (n, d).
        """
        score = log_weight
        if self.query is not None and self.key is not None:
            likeness = (self.key(outputs) * self.query(x)[:, None]).sum(-1)  # (n, s)
            score = score + likeness.float() * self.rank**-0.5
        weight = torch.softmax(score, -1).to(outputs.dtype)
        return (weight[..., None] * outputs).sum(1)  # quicker than n tiny products
