"""Train a masked diffusion transformer on a text: the task, and the way from a file to a folder of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError
from thoughtmix.diffusion.model import MaskedDiffusionConfig, MaskedDiffusionTransformer
from thoughtmix.diffusion.objective import (
    Masking,
    bound_loss,
    evaluate_bound,
    mask_by_count,
    mask_by_time,
    split_windows,
    token_losses,
)
from thoughtmix.diffusion.schedules import make_schedule
from thoughtmix.training.checkpoint import save_model
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import Splits
from thoughtmix.training.language import Shape, drawn_from, encode, identity, tokenizer_of
from thoughtmix.training.pace import evenly
from thoughtmix.training.trainer import Batch, TrainingProgress, TrainingResult, train_and_save


@dataclass(frozen=True, slots=True)
class DiffusionObjective:
    """What is learned.

    Args:
        weighting: bound (exact) or uniform (ablation).
        masking: time (each token on its own, at its row's t) or count (exactly k; the same expectation with less
            variance).
        schedule: How much is masked at each time (masking by time).
        prefix: Share of windows that begin with a clean prefix of random length, up to half a window, at the start of
            a line. Their loss bounds -log p(rest | prefix), and every predicted token of a batch counts alike, so the
            whole is a mixture of bounds, not the bound of one distribution. Evaluation is not mixed.
        hidden: Share of those whose prefix is masked and not counted, for guidance.

    Raises:
        UnknownName, InputError: For names and shares that there are not.
    """

    weighting: str = "bound"
    masking: str = "count"
    schedule: str = "linear"
    prefix: float = 0.5
    hidden: float = 0.1

    def __post_init__(self) -> None:
        make_schedule(self.schedule)
        for name, allowed in (("weighting", ("bound", "uniform")), ("masking", ("time", "count"))):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}.", f"Pass one of {', '.join(allowed)} (--{name} {allowed[0]})."
                )
        for name in ("prefix", "hidden"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}.", f"Pass a share from 0 to 1 (--{name}).")


class DiffusionTask:
    """The training task: windows of one long text, some with a clean prefix, masked and scored by the exact bound.

    Args:
        tokens, validation: (length,) int64 ids.
        context: Tokens of a window.
        mask_id: The id of the mask.
        objective: What is learned.
        seed: Of the draws of windows and masks.
        newline: The id that ends a line; None: there is none.
        windows: Most validation windows looked at in one evaluation.

    Raises:
        InputError: When a text is shorter than a window.
    """

    def __init__(
        self,
        tokens: Tensor,
        validation: Tensor,
        context: int,
        mask_id: int,
        objective: DiffusionObjective | None = None,
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
        self.objective = objective or DiffusionObjective()
        lines = torch.zeros(0, dtype=torch.int64) if newline is None else (tokens == newline).nonzero()[:, 0] + 1
        self.lines = lines[lines <= len(tokens) - context].numpy()
        self.validation = split_windows(validation, context, windows)

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
        by_count = o.masking == "count"
        masking = mask_by_count(free, draw) if by_count else mask_by_time(free, draw, make_schedule(o.schedule))
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
    def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
        """The bound on a share of the validation windows, nats a token: `val_loss` unconditional, `val_given` with
        an eighth of a window given. The same masks each time, exactly k masked."""
        windows = self.validation[evenly(len(self.validation), share)]
        return {
            name: evaluate_bound(model, windows, self.mask_id, draws=1, prefix=prefix, estimator="count").nats
            for name, prefix in (("val_loss", 0), ("val_given", self.context // 8))
        }


def diffusion_tokenizer(splits: Splits, shape: Shape) -> Any:
    """The tokenizer of `training.language`, and a mask with the last id."""
    tokenizer = tokenizer_of(splits, shape)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    return tokenizer


def new_model(tokenizer: Any, shape: Shape, seed: int, **more: Any) -> MaskedDiffusionTransformer:
    """A fresh model. Weights come from `seed`; the global random state is put back."""
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "unknown_token_id": tokenizer.unk_token_id,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": max(1024, 4 * shape.context),
        "trained_length": shape.context,
        **more,
    }
    with drawn_from(seed):
        return MaskedDiffusionTransformer(MaskedDiffusionConfig(**settings))


def new_task(tokenizer: Any, splits: Splits, shape: Shape, objective: DiffusionObjective, seed: int) -> DiffusionTask:
    """The task of a text, encoded by a tokenizer of `diffusion_tokenizer`."""
    line = encode(tokenizer, "\n").tolist()
    tokens, validation = encode(tokenizer, splits.train), encode(tokenizer, splits.validation)
    newline = line[0] if len(line) == 1 else None
    return DiffusionTask(tokens, validation, shape.context, tokenizer.mask_token_id, objective, seed, newline)


def train_diffusion(
    splits: Splits,
    shape: Shape,
    config: TrainConfig,
    folder: Path | None = None,
    *,
    objective: DiffusionObjective | None = None,
    resume: bool = False,
    on_step: Callable[[TrainingProgress], None] | None = None,
    **more: Any,
) -> tuple[MaskedDiffusionTransformer, Any, TrainingResult]:
    """Train a model.

    Args:
        splits: The text.
        shape: The size of the model.
        config: The run.
        folder: Where it is saved, for `load_diffusion`; None: nowhere.
        objective: What is learned.
        resume: Go on with the run in `folder`.
        more: Further fields of `MaskedDiffusionConfig`.

    Returns:
        The model in eval mode, its tokenizer, and how the run went.
    """
    objective = objective or DiffusionObjective()
    tokenizer = diffusion_tokenizer(splits, shape)
    task = new_task(tokenizer, splits, shape, objective, config.seed)
    model = new_model(tokenizer, shape, config.seed, guidance=objective.prefix * objective.hidden > 0, **more)
    save = partial(save_model, model, tokenizer)
    about = identity("diffusion", splits, tokenizer, shape, {**asdict(objective), **more})
    return model, tokenizer, train_and_save("diffusion", model, task, config, folder, save, resume, on_step, about)
