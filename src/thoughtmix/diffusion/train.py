"""Train a masked diffusion transformer on a text: from file to a folder that `load_diffusion` takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from thoughtmix.diffusion.config import MaskedDiffusionConfig
from thoughtmix.diffusion.model import MaskedDiffusionTransformer
from thoughtmix.diffusion.task import DiffusionTask, Objective
from thoughtmix.training.checkpoint import save_model
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import Splits
from thoughtmix.training.language import Shape, drawn_from, encode, tokenizer_of
from thoughtmix.training.trainer import TrainingProgress, TrainingResult, train_and_save

MASK = "<mask>"


def diffusion_tokenizer(splits: Splits, shape: Shape) -> Any:
    """The tokenizer of `training.language`, and a mask with the last id."""
    tokenizer = tokenizer_of(splits, shape)
    tokenizer.add_special_tokens({"mask_token": MASK})
    return tokenizer


def build(tokenizer: Any, shape: Shape, seed: int, **more: Any) -> MaskedDiffusionTransformer:
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
    config = MaskedDiffusionConfig(**settings)
    with drawn_from(seed):
        return MaskedDiffusionTransformer(config)


def task_of(tokenizer: Any, splits: Splits, shape: Shape, objective: Objective, seed: int) -> DiffusionTask:
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
    objective: Objective | None = None,
    resume: bool = False,
    on_step: Callable[[TrainingProgress], None] | None = None,
    **more: Any,
) -> tuple[MaskedDiffusionTransformer, Any, TrainingResult]:
    """The trained model in eval mode, its tokenizer, and how the run went; saved to `folder` when one is given."""
    objective = objective or Objective()
    tokenizer = diffusion_tokenizer(splits, shape)
    task = task_of(tokenizer, splits, shape, objective, config.seed)
    model = build(tokenizer, shape, config.seed, guidance=objective.prefix * objective.hidden > 0, **more)
    save = partial(save_model, model, tokenizer)
    return model, tokenizer, train_and_save("diffusion", model, task, config, folder, save, resume, on_step)
