"""Drawing a thought's route and noise: pure functions of seeds and odds, vectorised over rows and layers.

The first branch of a thought comes from the inverse of the odds' distribution function at u(seed), the seed's 32 low
bits in reverse as a binary fraction (van der Corput's sequence): any 2^m neighbouring seeds fall once into each of 2^m
equal strata, and yet u depends on the seed alone. The others are the largest of odds + Gumbel noise among the rest
(Gumbel-top-k: Kool, van Hoof and Welling 2019, eq. 6).

Axis letters: b rows, l layers that draw (1 when the model has one route), k branches, s of them drawn, r rank.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.engine.counter_rng import gumbel, key, normal, uniform
from thoughtmix.engine.rng import NOISE, ROUTE

_GUMBEL, _COUNT, _TURN = 0, 2, 3  # what a route's key is drawn for


def radical_inverse(seeds: Tensor) -> Tensor:
    """int64 seeds -> float64 in (0, 1): the 32 low bits, reversed, as a fraction."""
    x = seeds & 0xFFFFFFFF
    for shift, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        x = ((x >> shift) & mask) | ((x & mask) << shift)
    x = (x >> 16) | ((x & 0xFFFF) << 16)
    return (x.double() + 0.5) * 2.0**-32


def draw_routes(log_odds: Tensor, seeds: Tensor, low: int, high: int, stratified: bool = True) -> tuple[Tensor, Tensor]:
    """Draw branches without replacement.

    Args:
        log_odds: (b, l, k).
        seeds: (b,) int64.
        low: Fewest branches that a row and layer uses; the number is uniform.
        high: Most of them, s.
        stratified: Spread the first branches of neighbouring seeds evenly over the odds.

    Returns:
        Branches (b, l, s) int64 and their log-weights (b, l, s), -inf where unused, which carry the gradient of
        log_odds.
    """
    number = torch.arange(log_odds.shape[1], device=seeds.device)
    keys = key(seeds[:, None], ROUTE, number)  # (b, l)
    score = log_odds.detach().float() + gumbel(key(keys, _GUMBEL), log_odds.shape[-1])
    if stratified:
        # Each layer turns the sequence by its own constant, which keeps the strata (Cranley and Patterson 1976).
        turn = uniform(key(torch.zeros_like(number), _TURN, number), 1)[:, 0] * (number > 0)
        u = (radical_inverse(seeds)[:, None] + turn) % 1.0
        cdf = log_odds.detach().double().softmax(-1).cumsum(-1)
        first = (cdf <= (u * cdf[..., -1])[..., None]).sum(-1).clamp(max=log_odds.shape[-1] - 1)
        score = score.scatter(-1, first[..., None], torch.inf)
    branch = score.topk(high, dim=-1).indices
    weight = log_odds.float().gather(-1, branch)
    if low < high:
        count = low + (uniform(key(keys, _COUNT), 1) * (high - low + 1)).long()  # (b, l, 1)
        weight = weight.masked_fill(torch.arange(high, device=weight.device) >= count, -torch.inf)
    return branch, F.log_softmax(weight, -1)


def dense_weights(branch: Tensor, log_weight: Tensor, count: int) -> Tensor:
    """(b, l, s) routes -> (b, l, k) weights, 0 for branches off the route."""
    weight = log_weight.exp()
    return weight.new_zeros(*branch.shape[:-1], count).scatter_add(-1, branch, weight)


def held_noise(seeds: Tensor, layers: Tensor, branches: int, rank: int) -> Tensor:
    """seeds (b,), layer numbers (l,) -> (b, l, k, r) standard normal."""
    device = seeds.device
    number = torch.arange(branches, device=device)
    return normal(key(seeds[:, None, None], NOISE, layers.to(device)[:, None], number), rank)


def fresh_noise(seeds: Tensor, layer: int, branches: int, rank: int, positions: Tensor) -> Tensor:
    """positions (b, t) -> (b, t, k, r) standard normal."""
    number = torch.arange(branches, device=seeds.device)
    return normal(key(seeds[:, None, None], NOISE, layer, number, positions[..., None]), rank)
