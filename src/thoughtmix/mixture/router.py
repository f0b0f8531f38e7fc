"""The probabilistic router: which branches a thought goes through at one layer, and with what weights.

Sampling k of K without replacement in proportion to softmax(logits) is taking the k largest of logits + Gumbel noise
(Gumbel-top-k: Kool, van Hoof and Welling 2019, eq. 6). Without a draw it is the k likeliest.

Axis letters: b rows, g segments (or tokens, where each has its own route), k branches, s slots of a route, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thoughtmix.engine.counter_rng import gumbel, key, normal, uniform
from thoughtmix.engine.rng import ROUTE
from thoughtmix.mixture.state import Segments

_GUMBEL, _BONUS, _COUNT = 0, 1, 2  # what a route's key is drawn for


@dataclass(slots=True)
class Route:
    """Slots that are inactive (of a thought that goes through fewer branches) have log-weight -inf."""

    branch: Tensor  # (b, g, s) int64
    log_weight: Tensor  # (b, g, s) float32, exp sums to 1 over active slots
    log_prob: Tensor  # (b, g, k) float32: the router's own distribution, before any draw


@dataclass(slots=True)
class RouterNoise:
    """What is drawn for segments: noise on the router's logits, and how many branches to take."""

    bonus: Tensor  # (b, g, k), before the temperature
    gumbel: Tensor  # (b, g, k), after it
    count: Tensor | None  # (b, g, 1); None: always all slots

    def to_tokens(self, segments: Segments) -> RouterNoise:
        """Of each token instead of each segment."""
        count = None if self.count is None else segments.to_tokens(self.count)
        return RouterNoise(segments.to_tokens(self.bonus), segments.to_tokens(self.gumbel), count)


class ThoughtRouter(nn.Module):
    """Logits W pool + bonus * noise over a learned temperature; pool is the mean hidden state before the segment.

    Args:
        hidden_size: d.
        num_branches: K.
        branches_min: Fewest branches that are drawn; the number is uniform per row and segment.
        branches_max: Most branches that are drawn, and how many are taken without a draw.
        diversity_bonus: Standard deviation of the normal noise that is added to the logits.
        routing: "gumbel", or "topk", which never draws.
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

    def sample_noise(self, keys: Tensor | None, drawn: Tensor) -> RouterNoise:
        """The noise of keys (b, g) int64, which topk needs none of, where drawn (b, g) bool is set; elsewhere none."""
        if keys is None or self.routing == "topk":
            none = torch.zeros(*drawn.shape, self.num_branches, device=drawn.device)
            return RouterNoise(none, none, None)
        draw = drawn[..., None]
        bonus = self.bonus * draw * normal(key(keys, _BONUS), self.num_branches)
        noise = draw * gumbel(key(keys, _GUMBEL), self.num_branches)
        count = None
        if self.low < self.high:
            span = self.high - self.low + 1
            count = self.low + (uniform(key(keys, _COUNT), 1) * span).long()  # (b, g, 1)
            count = torch.where(draw, count, self.high)
        return RouterNoise(bonus, noise, count)

    def forward(self, pool: Tensor, keys: Tensor, drawn: Tensor) -> Route:
        """The routes of pool (b, g, d): drawn by keys (b, g) int64 where drawn (b, g) is set, else the likeliest."""
        return self.route(pool, self.sample_noise(keys, drawn))

    def route(self, pool: Tensor, noise: RouterNoise) -> Route:
        """The routes of pool (b, g, d) under this noise."""
        logits = self.proj(pool).float()  # (b, g, k)
        temperature = self.log_temperature.exp()
        noisy = (logits + noise.bonus) / temperature
        branch = (noisy.detach() + noise.gumbel).topk(self.high, dim=-1).indices  # (b, g, s)
        weight = noisy.gather(-1, branch)
        if noise.count is not None:
            unused = torch.arange(self.high, device=weight.device) >= noise.count
            weight = weight.masked_fill(unused, -torch.inf)
        return Route(branch, F.log_softmax(weight, -1), F.log_softmax(logits / temperature, -1))

    def likeliest(self, route: Route) -> Route:
        """The undrawn route of the same segments."""
        weight, branch = route.log_prob.topk(self.high, dim=-1)
        return Route(branch, F.log_softmax(weight, -1), route.log_prob)


def route_keys(seeds: Tensor, layer: int, segment: Tensor) -> Tensor:
    """seeds (b,), segment (b, g) -> (b, g): whose draw, at which layer, for which segment."""
    return key(seeds[:, None], ROUTE, layer, segment)
