"""A distiller: what the head reads of a token, predicted from the token's state after a few layers.

It learns while it is used. Where it has seen the like before, it predicts well; its error is how new a token is.

Predicted is the direction of the deep state, t = h / rms(h), from z = (A x, 1): x is the shallow state in units of its
root mean square and A a fixed random projection. The map is the ridge regression over all pairs (z, t) that were seen,
solved anew at each step from two sums:

    B = (Z^T Z + ridge I)^-1 Z^T T      (the constant's weight is not shrunk)

Zeng et al. ("Large Language Models Explore by Latent Distilling", 2026) train a gated low-rank map by gradient steps.
A set's texts are short, some hundred tokens: by then gradient steps have not yet learnt the mean, the regression has
after one step, and it has no learning rate (docs/LOG.md, 2026-11-27).
"""

from __future__ import annotations

import torch
from torch import Tensor

from thoughtmix.engine.rng import DISTILLER, generator


class Distiller:
    """Learns and predicts, in float32 and without gradient. One at a time: it is not thread-safe.

    Args:
        shallow, deep: Widths of the states.
        width: Rows of A.
        ridge: Pairs seen count for little against this many.
        seed: A is drawn by it.
        device: Where the states are.
    """

    def __init__(
        self, shallow: int, deep: int, width: int, ridge: float, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        drawn = generator(seed, DISTILLER).standard_normal((width, shallow)) * shallow**-0.5
        self.projection = torch.from_numpy(drawn).float().to(device)
        self.seen = 0
        self._inner = torch.eye(width + 1, device=device) * ridge  # Z^T Z + ridge I
        self._inner[-1, -1] = 1e-3
        self._outer = torch.zeros(width + 1, deep, device=device)  # Z^T T
        self._map = torch.zeros(width + 1, deep, device=device)  # B

    def features(self, shallow: Tensor) -> Tensor:
        """Shallow states (rows, width) -> z (rows, width + 1)."""
        z = (shallow / rms(shallow)) @ self.projection.T
        return torch.cat([z, z.new_ones(len(z), 1)], 1)

    def predict(self, features: Tensor) -> Tensor:
        """t (rows, width) as expected. Before anything was seen it is 0."""
        return features @ self._map

    def learn(self, features: Tensor, directions: Tensor) -> None:
        """Pairs (z, t), a row each."""
        self._inner.addmm_(features.T, features)
        self._outer.addmm_(features.T, directions)
        self._map = torch.cholesky_solve(self._outer, torch.linalg.cholesky(self._inner))
        self.seen += len(features)


def rms(x: Tensor) -> Tensor:
    """Root mean square of each row, (rows, 1); never 0."""
    return x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-12)
