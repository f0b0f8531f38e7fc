"""How a model is trained: the settings, the learning rate of each step, and which optimizer has which parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings of a training run. Raises `InputError` for one that is out of its range."""

    steps: int | None = 2000  # optimizer steps; None: as many as fit into `minutes`, measured on the first ones
    minutes: float | None = None
    batch_size: int = 12  # rows of a step in each process
    learning_rate: float = 1e-3  # the peak, after `warmup` steps; then along a cosine to `final` of it
    warmup: int = 100
    final: float = 0.1
    weight_decay: float = 0.1  # of matrices; vectors and scalars are never decayed
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW
    clip: float = 1.0  # largest gradient norm
    ema: float = 0.0  # decay of the averaged weights that are kept in the end; 0: none are
    evaluate_every: int = 250
    save_every: int = 250
    patience: int = 0  # evaluations without a better one before stopping; 0: never
    precision: str = (
        "auto"  # no, bf16, or auto: bf16 on GPUs only, as most CPUs lose more in conversions than they save
    )
    optimizer: str = "adamw"  # or muon for the matrices of linear layers and AdamW for the rest
    seed: int = 0  # of weights, batches and routes

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InputError("Neither steps nor minutes are given.", "Pass --steps 2000 or --minutes 5.")
        for name in ("steps", "minutes", "batch_size", "learning_rate", "clip", "evaluate_every", "save_every"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                option = name.replace("_", "-")
                raise InputError(f"{name} is {value}.", f"Pass more than 0 (--{option}).")
        for name in ("ema", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass 0 to 1 (--{name}).")
        if self.precision not in {"auto", "no", "bf16"}:
            raise InputError(f"precision is {self.precision!r}.", "Pass auto, no or bf16 (--precision).")
        if self.optimizer not in {"adamw", "muon"}:
            raise InputError(f"optimizer is {self.optimizer!r}.", "Pass adamw or muon (--optimizer).")

    def learning_rate_at(self, step: int, steps: int) -> float:
        """The learning rate of `step`, counted from 0, of `steps`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers that together have each parameter that learns once.

    AdamW alone; or Muon (Jordan et al. 2024) for the matrices of linear layers between embedding and head, and AdamW
    for all else. Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, Muon is scalable for LLM training,
    eq. 4), so one learning rate and one weight decay serve both.
    """
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    learning = [p for p in model.parameters() if p.requires_grad]
    matrices: list[torch.Tensor] = []
    if config.optimizer == "muon":
        # An embedding that is tied to the head is the head's weight, so it is left out with it.
        head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        linear = (m for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
        matrices = [m.weight for m in linear if m.weight.requires_grad]
    for_muon = {id(p) for p in matrices}
    decayed = [p for p in learning if p.ndim > 1 and id(p) not in for_muon]
    plain = [p for p in learning if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    rate = config.learning_rate
    out: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=config.betas, fused=True)]
    if matrices:
        out.append(torch.optim.Muon(matrices, rate, config.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return out
