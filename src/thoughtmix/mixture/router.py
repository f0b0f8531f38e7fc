"""The probabilistic router: which branches a thought travels through at one layer, and with what weights.

Sampling k of K without replacement in proportion to softmax(logits) is taking the k largest of logits + Gumbel noise
(Gumbel-top-k: Kool, van Hoof and Welling 2019, eq. 6). Without a draw it is the k likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thoughtmix.engine.counter_rng import gumbel, key, normal, uniform
from thoughtmix.engine.rng import ROUTE

if TYPE_CHECKING:
    from thoughtmix.mixture.segments import Segments

_GUMBEL, _BONUS, _COUNT = 0, 1, 2  # what a route's key is drawn for


@dataclass(slots=True)
class Route:
    """Of b rows and g segments (or g tokens, where each has its own route). Inactive slots (a thought that travels
    through fewer) have log-weight -inf."""

    branch: Tensor  # (b, g, s) int64
    log_weight: Tensor  # (b, g, s) float32, exp sums to 1 over active slots
    log_prob: Tensor  # (b, g, k) float32: the router's own distribution, before any draw


@dataclass(slots=True)
class Taste:
    """What is drawn for segments: noise on the router's logits, and how many branches to take (None: always all)."""

    bonus: Tensor  # (b, g, k), before the temperature
    noise: Tensor  # (b, g, k) Gumbel, after it
    count: Tensor | None  # (b, g, 1)

    def take(self, segments: Segments) -> Taste:
        """Of each token instead of each segment."""
        return Taste(
            segments.take(self.bonus),
            segments.take(self.noise),
            None if self.count is None else segments.take(self.count),
        )


class ThoughtRouter(nn.Module):
    """Logits W pool + bonus * noise over a learned temperature; pool is the mean hidden state before the segment.

    hidden_size d, num_branches K; between branches_min and branches_max branches are drawn, uniformly, per row and
    segment (undrawn: branches_max). routing topk: never a draw.
    """

    def __init__(
        self,
        hidden_size: int,
        num_branches: int,
        branches_min: int = 2,
        branches_max: int = 3,
        diversity_bonus: float = 0.1,
        routing: str = "gumbel",
    ) -> None:
        super().__init__()
        self.num_branches, self.low, self.high = num_branches, branches_min, branches_max
        self.bonus, self.routing = diversity_bonus, routing
        self.proj = nn.Linear(hidden_size, num_branches)
        self.prior = nn.Parameter(torch.zeros(hidden_size))  # stands for the pool where nothing lies before
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def taste(self, keys: Tensor | None, drawn: Tensor) -> Taste:
        """What is drawn for keys (b, g) int64 (whose draw; None: nothing is) where drawn (b, g) says so."""
        if keys is None or self.routing == "topk":
            none = torch.zeros(*drawn.shape, self.num_branches, device=drawn.device)
            return Taste(none, none, None)
        draw = drawn[..., None]
        bonus = self.bonus * draw * normal(key(keys, _BONUS), self.num_branches)
        noise = draw * gumbel(key(keys, _GUMBEL), self.num_branches)
        count = None
        if self.low < self.high:
            span = self.high - self.low + 1
            count = self.low + (uniform(key(keys, _COUNT), 1) * span).long()  # (b, g, 1)
            count = torch.where(draw, count, self.high)
        return Taste(bonus, noise, count)

    def forward(self, pool: Tensor, keys: Tensor, drawn: Tensor) -> Route:
        """pool (b, g, d), keys (b, g) int64 (whose draw), drawn (b, g) bool: draw, or take the likeliest -> `Route`."""
        return self.choose(pool, self.taste(keys, drawn))

    def choose(self, pool: Tensor, taste: Taste) -> Route:
        """pool (b, g, d) and what was drawn for each -> `Route`."""
        logits = self.proj(pool).float()  # (b, g, k)
        temperature = self.log_temperature.exp()
        noisy = (logits + taste.bonus) / temperature
        branch = (noisy.detach() + taste.noise).topk(self.high, dim=-1).indices  # (b, g, s)
        weight = noisy.gather(-1, branch)
        if taste.count is not None:
            count = taste.count
            weight = weight.masked_fill(torch.arange(self.high, device=weight.device) >= count, -torch.inf)
        return Route(branch, F.log_softmax(weight, -1), F.log_softmax(logits / temperature, -1))


def route_keys(seeds: Tensor, layer: int, segment: Tensor) -> Tensor:
    """seeds (b,), segment (b, g) -> (b, g): whose draw, at which layer, for which segment."""
    return key(seeds[:, None], ROUTE, layer, segment)
