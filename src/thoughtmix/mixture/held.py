"""One token a row along routes that stand: the same numbers as layer.py computes, with less to do a step.

When generating, a thought's route and held noise do not change from token to token. So its noise is drawn once, and
what the input noise does to the first product is computed once too: up (x + a e) = up x + a (up e).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from thoughtmix.decoding.randomness import NOISE
from thoughtmix.mixture.draws import key

if TYPE_CHECKING:
    from thoughtmix.mixture.layer import MixtureOfThoughtsLayer
    from thoughtmix.mixture.router import Route
    from thoughtmix.mixture.state import Memory


def stands(layer: MixtureOfThoughtsLayer, memory: Memory | None) -> bool:
    """Whether the routes stand, with no noise that is drawn anew."""
    return memory is not None and "branch" in memory and layer.noise != "fresh"


def mix(
    layer: MixtureOfThoughtsLayer,
    x: Tensor,
    memory: Memory,
    route: Route,
    creativity: Tensor,
    seeds: Tensor,
    factor: Tensor | float,
) -> Tensor:
    """x (b, d), creativity (b, 1) -> (b, d), without the shared part. Noise is kept in `memory`, which goes with its
    rows."""
    if layer.branches.input_noise is not None and "shift" not in memory:
        _draw(layer, memory, route, seeds)
    c = creativity.to(x.dtype)
    mixed = _pass(layer, x, memory, route, (c > 0) * factor)
    if bool(((c == 0) | (c == 1)).all()):
        return mixed
    base = _pass(layer, x, memory, layer.likeliest(route), None)
    return torch.where(c > 0, base + c * (mixed - base), mixed)


def _draw(layer: MixtureOfThoughtsLayer, memory: Memory, route: Route, seeds: Tensor) -> None:
    from thoughtmix.mixture.layer import tables

    up = layer.branches.up.detach()
    f, d = up.shape[1:]
    branch = route.branch[:, 0]  # (b, s)
    at_input, inside = tables(key(seeds[:, None], NOISE, layer.index, branch), d, f)  # (b, s, d), (b, s, f)
    memory["shift"] = torch.einsum("bsfd,bsd->bsf", up[branch], at_input.to(up.dtype))
    memory["inside"] = inside.to(up.dtype)


def _pass(layer: MixtureOfThoughtsLayer, x: Tensor, memory: Memory, route: Route, amplitude: Tensor | None) -> Tensor:
    """amplitude (b, 1) of the noise; None: none."""
    bank = layer.branches
    k, f, d = bank.up.shape
    branch = route.branch[:, 0, :, None]  # (b, s, 1)
    (b, s), wide = branch.shape[:2], branch.expand(-1, -1, f)
    latent = F.linear(x, bank.up.view(k * f, d)).view(b, k, f).gather(1, wide)  # (b, s, f)
    if amplitude is not None and bank.input_noise is not None and bank.latent_noise is not None:
        size = bank.input_noise.size(x, amplitude)[..., None]  # (b, 1, 1)
        latent = F.gelu(torch.addcmul(latent, size.to(x.dtype), memory["shift"]))
        latent = bank.latent_noise(latent, memory["inside"], amplitude[..., None])
    else:
        latent = F.gelu(latent)
    placed = x.new_zeros(b, k, f).scatter(1, wide, latent)
    every = torch.bmm(placed.transpose(0, 1), bank.down.mT).transpose(0, 1)  # (b, k, d)
    outputs = every.gather(1, branch.expand(b, s, d))
    return layer.combiner(x, outputs, route.log_weight[:, 0])
