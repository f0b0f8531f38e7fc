"""How a model is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thoughtmix.core.errors import InputError


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """steps: optimizer steps; None: as many as fit into `minutes`, measured on the first ones (learning rate schedule
    included). batch_size: rows a process. learning_rate: the peak, after `warmup` steps, falling along a cosine to
    `final` of it. clip: largest gradient norm. ema: decay of the averaged weights that are kept in the end; 0: off.
    patience: evaluations without a better one before stopping; 0: never. precision: no, bf16 or auto (bf16 on
    GPUs that have it; on CPUs without bf16 instructions it costs more in conversions than it saves). optimizer: adamw,
    or muon for the matrices of linear layers and adamw for the rest (optimizers.py)."""

    steps: int | None = 2000
    minutes: float | None = None
    batch_size: int = 12
    learning_rate: float = 1e-3
    warmup: int = 100
    final: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema: float = 0.0
    evaluate_every: int = 250
    save_every: int = 250
    patience: int = 0
    precision: str = "auto"
    optimizer: str = "adamw"
    seed: int = 0

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

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.learning_rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
