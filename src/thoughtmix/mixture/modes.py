"""Modes: learned ways to continue. Each thought has one, for all its tokens and layers.

A mode moves what the branches read along a learned direction and prefers some of them: noise that is held, with a
meaning. Which mode suits a text is found in training by trying them (training/task.py), so that the model is
p(y | x) = sum_z p(z) p(y | x, z), trained by hard EM (Neal and Hinton 1998; for mixtures of sequence models Shen et al.
2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Modes(nn.Module):
    """count modes of a layer of width d with k branches. Thought s has mode s mod count: neighbouring seeds differ, and
    a thought's mode is its own seed's."""

    def __init__(self, count: int, hidden_size: int, num_branches: int) -> None:
        super().__init__()
        self.count = count
        self.direction = nn.Parameter(torch.empty(count, hidden_size))
        self.preference = nn.Parameter(torch.empty(count, num_branches))

    def of(self, seeds: Tensor) -> Tensor:
        """(b,) -> (b,) in 0..count-1."""
        return seeds % self.count
