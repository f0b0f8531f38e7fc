"""Which optimizers train a model, and which of its parameters each one has."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from thoughtmix.training.config import TrainConfig


def optimizers_of(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW alone; or Muon (Jordan et al. 2024) for the matrices of linear layers between embedding and head, and AdamW
    for all else. Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, Muon is scalable for LLM training,
    eq. 4), so one learning rate and one weight decay serve both. Vectors and scalars are never decayed."""
    c = config
    learning = [p for p in model.parameters() if p.requires_grad]
    turned = {id(p) for p in hidden_matrices(model)} if c.optimizer == "muon" else set()
    matrices = [p for p in learning if id(p) in turned]
    decayed = [p for p in learning if p.ndim > 1 and id(p) not in turned]
    groups = [
        {"params": decayed, "weight_decay": c.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = c.learning_rate
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=c.betas, fused=True)]
    if matrices:
        found.append(torch.optim.Muon(matrices, rate, c.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return found


def hidden_matrices(model: nn.Module) -> list[torch.Tensor]:
    """Weights of linear layers, the output layer's left out (and with it an embedding that is tied to it)."""
    ask: Any = getattr(model, "get_output_embeddings", lambda: None)
    head = ask()
    return [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m is not head and m.weight.requires_grad]
