"""Branches: parallel feed-forward networks, disturbed at their input and in their latent space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DENSE_TOKENS = 64  # up to here computing all K branches at once beats gathering tokens by branch


class NoiseInjection(nn.Module):
    """x + amplitude * scale * gate(x) * size(x) * noise.

    The amplitude comes from creativity (layer.py), and nothing else governs the noise: not train or eval mode.

    Args:
        width: Of x.
        noise_scale: Learned within 0.5 to 1.5 of this, so that training cannot switch the noise off.
        adaptive: Learn where noise belongs, by the gate 2 sigmoid(Linear(x)); False: everywhere alike.
        relative: The size is the root mean square of x; False: 1, for x that is normalised already.
    """

    def __init__(self, width: int, noise_scale: float = 0.1, adaptive: bool = True, relative: bool = False) -> None:
        super().__init__()
        self.noise_scale, self.relative = noise_scale, relative
        self.strength = nn.Parameter(torch.zeros(()))
        self.gate = nn.Linear(width, 1) if adaptive else None

    def forward(self, x: Tensor, noise: Tensor, amplitude: Tensor) -> Tensor:
        """x and noise (..., width), amplitude broadcast to (..., 1)."""
        return torch.addcmul(x, self.size(x, amplitude).to(x.dtype), noise.to(x.dtype))

    def learned_scale(self, amplitude: Tensor) -> Tensor:
        """What is learned for all x alike."""
        return self.noise_scale * (0.5 + torch.sigmoid(self.strength)) * amplitude

    def size(self, x: Tensor, amplitude: Tensor) -> Tensor:
        """(..., 1) what the noise is multiplied by."""
        size = self.learned_scale(amplitude)
        if self.gate is not None:
            size = size * 2 * torch.sigmoid(self.gate(x))
        if self.relative:
            size = size * torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return size


@dataclass(slots=True)
class BranchNoise:
    """What disturbs (token, slot) pairs: rows of two tables, so that held noise is kept once for all tokens.

    Axis letters: r rows of the tables, n tokens, s slots, d width, f width of a branch.
    """

    at_input: Tensor  # (r, d)
    latent: Tensor  # (r, f)
    index: Tensor  # (n, s) into r
    amplitude: Tensor  # (n,)

    def gather(self, pairs: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
        """The noise at the input (m, d), inside (m, f) and its amplitude (m, 1) of flat pair numbers (m,)."""
        rows = self.index.flatten().index_select(0, pairs)
        amplitude = self.amplitude.index_select(0, pairs // slots)[:, None]
        return self.at_input.index_select(0, rows), self.latent.index_select(0, rows), amplitude


class ThoughtBranch(nn.Module):
    """K branches with their weights stacked: down_k gelu(up_k x). num_branches=1 is one plain feed-forward network."""

    def __init__(self, hidden_size: int, width: int, num_branches: int = 1, noise_scale: float = 0.1) -> None:
        super().__init__()
        self.num_branches = num_branches
        self.up = nn.Parameter(torch.empty(num_branches, width, hidden_size))
        self.down = nn.Parameter(torch.empty(num_branches, hidden_size, width))
        for weight in (self.up, self.down):
            nn.init.normal_(weight, std=0.02)
        noisy = num_branches > 1 and noise_scale > 0
        self.input_noise = NoiseInjection(hidden_size, noise_scale) if noisy else None
        self.latent_noise = NoiseInjection(width, noise_scale, adaptive=False, relative=True) if noisy else None

    def forward(
        self,
        x: Tensor,
        branch: Tensor | None = None,
        active: Tensor | None = None,
        noise: BranchNoise | None = None,
        dense: bool | None = None,
    ) -> Tensor:
        """The outputs (n, s, d) of each token's branches, 0 where inactive.

        Args:
            x: (n, d).
            branch: (n, s) int64; not needed where there is one branch.
            active: (n, s) bool.
            noise: What disturbs the pairs; None: nothing.
            dense: Compute all K branches for every token, which is quicker for few, or each for its own tokens.
                None: as n says.
        """
        if self.num_branches == 1:
            return F.linear(F.gelu(F.linear(x, self.up[0])), self.down[0])[:, None]
        assert branch is not None and active is not None
        if dense is None:
            dense = len(x) <= DENSE_TOKENS
        return self._dense(x, branch, active, noise) if dense else self._grouped(x, branch, active, noise)

    def _dense(self, x: Tensor, branch: Tensor, active: Tensor, noise: BranchNoise | None) -> Tensor:
        n, s = branch.shape
        k, f, d = self.up.shape
        pairs = torch.arange(n * s, device=x.device)
        if noise is None:
            every = F.linear(x, self.up.view(k * f, d)).view(n, k, f)
            latent = F.gelu(every.gather(1, branch[..., None].expand(n, s, f)))
        else:
            at_input, inside, amplitude = noise.gather(pairs, s)
            wide = self._input(x.repeat_interleave(s, 0), at_input, amplitude)  # (n s, d): the input differs by branch
            # (n, s, d) to its place in (k, n, d): each branch sees the tokens that chose it, zeros elsewhere
            placed = x.new_zeros(n, k, d).scatter(1, branch[..., None].expand(n, s, d), wide.view(n, s, d))
            every = torch.bmm(placed.transpose(0, 1), self.up.mT).transpose(0, 1)  # (n, k, f)
            latent = F.gelu(every.gather(1, branch[..., None].expand(n, s, f)))
            latent = self._latent(latent.view(n * s, f), inside, amplitude).view(n, s, f)
        placed = x.new_zeros(n, k, f).scatter(1, branch[..., None].expand(n, s, f), latent)
        out = torch.bmm(placed.transpose(0, 1), self.down.mT).transpose(0, 1)  # (n, k, d)
        return out.gather(1, branch[..., None].expand(n, s, d)) * active[..., None]

    def _grouped(self, x: Tensor, branch: Tensor, active: Tensor, noise: BranchNoise | None) -> Tensor:
        n, s = branch.shape
        k = self.num_branches
        chosen = torch.where(active, branch, k).flatten()  # inactive pairs sort behind all branches
        order = chosen.argsort(stable=True)
        counts = torch.bincount(chosen, minlength=k + 1)[:k].tolist()
        order = order[: sum(counts)]
        inputs = x.index_select(0, order // s)
        inside = amplitude = None
        if noise is not None:
            at_input, inside, amplitude = noise.gather(order, s)
            inputs = self._input(inputs, at_input, amplitude)
        # unbind, not up[i]: the backward of an index fills a whole stack of zeros for each branch
        ups, downs = self.up.unbind(0), self.down.unbind(0)
        latent = F.gelu(torch.cat([F.linear(part, ups[i]) for i, part in enumerate(inputs.split(counts))]))
        if noise is not None:
            latent = self._latent(latent, inside, amplitude)
        out = torch.cat([F.linear(part, downs[i]) for i, part in enumerate(latent.split(counts))])
        return x.new_zeros(n * s, x.shape[1]).index_copy(0, order, out).view(n, s, -1)

    def _input(self, x: Tensor, noise: Tensor, amplitude: Tensor) -> Tensor:
        assert self.input_noise is not None
        return self.input_noise(x, noise, amplitude)

    def _latent(self, x: Tensor, noise: Tensor | None, amplitude: Tensor | None) -> Tensor:
        assert self.latent_noise is not None
        return self.latent_noise(x, noise, amplitude)
