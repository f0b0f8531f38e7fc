"""The training task: windows of one long text, some with a clean prefix, masked and scored by the exact bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.evaluation import evaluate, windows_of
from thoughtmix.diffusion.objective import Masking, bound_loss, by_count, by_time, token_losses
from thoughtmix.diffusion.schedules import schedule
from thoughtmix.training.trainer import Batch


@dataclass(frozen=True, slots=True)
class Objective:
    """weighting: bound (exact) or uniform (ablation). masking: time (each token on its own, at its row's t) or count
    (exactly k; the same expectation with less variance). prefix: share of windows that begin with a clean prefix of
    random length, up to half a window, at the start of a line; their loss bounds -log p(rest | prefix), and every
    predicted token of a batch counts alike, so the whole is a mixture of bounds, not the bound of one distribution;
    evaluation is not mixed. hidden: share of those whose prefix is masked and not counted, for guidance."""

    weighting: str = "bound"
    masking: str = "count"
    schedule: str = "linear"
    prefix: float = 0.5
    hidden: float = 0.1

    def __post_init__(self) -> None:
        schedule(self.schedule)
        for name, allowed in (("weighting", ("bound", "uniform")), ("masking", ("time", "count"))):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}.", f"Pass one of {', '.join(allowed)} (--{name} {allowed[0]})."
                )
        for name in ("prefix", "hidden"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass a share from 0 to 1 (--{name}).")


class DiffusionTask:
    """tokens and validation: (length,) int64 ids. newline: the id that ends a line, or None. windows: most validation
    windows looked at in one evaluation."""

    def __init__(
        self,
        tokens: Tensor,
        validation: Tensor,
        context: int,
        mask_id: int,
        objective: Objective | None = None,
        seed: int = 0,
        newline: int | None = None,
        windows: int = 192,
    ) -> None:
        for name, ids in (("training", tokens), ("validation", validation)):
            if len(ids) <= context:
                raise InputError(
                    f"The {name} text has {len(ids)} tokens, a window takes {context}.",
                    "Pass a longer text (--data) or a shorter window (--context).",
                )
        self.tokens, self.context, self.mask_id, self.seed = tokens, context, mask_id, seed
        self.objective = objective or Objective()
        lines = torch.zeros(0, dtype=torch.int64) if newline is None else (tokens == newline).nonzero()[:, 0] + 1
        self.lines = lines[lines <= len(tokens) - context].numpy()
        self.validation = windows_of(validation, context, windows)

    def batch(self, step: int, rows: range, total: int) -> Batch:
        """ids (b, t); masked, free (b, t) bool: hidden from the model, and counted; weight (b,)."""
        o, t = self.objective, self.context
        draw = np.random.default_rng([self.seed, 3, step])
        starts = draw.integers(0, len(self.tokens) - t + 1, total)
        given = draw.random(total) < o.prefix
        if len(self.lines):
            starts = np.where(given, self.lines[draw.integers(0, len(self.lines), total)], starts)
        cut = torch.from_numpy(draw.integers(1, max(2, t // 2 + 1), total) * given)
        unseen = torch.from_numpy(draw.random(total) < o.hidden)
        free = torch.arange(t) >= cut[:, None]
        masking = by_count(free, draw) if o.masking == "count" else by_time(free, draw, schedule(o.schedule))
        mine = slice(rows.start, rows.stop)
        return {
            "ids": torch.stack([self.tokens[s : s + t] for s in starts[mine]]),
            "masked": masking.masked[mine],
            "unseen": (~free & unseen[:, None])[mine],
            "free": free[mine],
            "weight": masking.weight[mine],
        }

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        ids = torch.where(batch["unseen"], self.mask_id, batch["ids"])
        losses = token_losses(model, ids, batch["masked"], self.mask_id)
        masking = Masking(batch["masked"], batch["weight"])
        loss = bound_loss(losses, masking, batch["free"], self.objective.weighting)
        return loss, {"bound": bound_loss(losses.detach(), masking, batch["free"])}

    @torch.no_grad()
    def evaluate(self, model: Any) -> dict[str, float]:
        """The bound on validation windows, nats a token: `val_loss` unconditional, `val_given` with an eighth of a
        window given. The same masks each time, exactly k masked."""
        found = {}
        for name, prefix in (("val_loss", 0), ("val_given", self.context // 8)):
            bound = evaluate(model, self.validation, self.mask_id, draws=1, prefix=prefix, estimator="count")
            found[name] = bound.nats
        return found
