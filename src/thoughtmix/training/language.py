"""Train a Mixture-of-Thoughts transformer, or the baseline, on a text: from file to a folder that `--model` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from thoughtmix.core.errors import InputError
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer, StandardTransformer
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.curves import loss_curve
from thoughtmix.training.data import Splits
from thoughtmix.training.task import LanguageTask
from thoughtmix.training.tokens import bpe_tokenizer, character_tokenizer
from thoughtmix.training.trainer import Progress, Trained, Trainer

Kind = Literal["mixture", "baseline"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of both kinds alike; `more` are fields of `MixtureOfThoughtsConfig` for the mixture."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 64
    vocabulary: int = 0
    """Byte-level BPE of this many tokens; 0: a token a character."""


def tokenizer_of(splits: Splits, shape: Shape) -> Any:
    """Made from all splits' characters: which letters exist is not what is learned."""
    whole = splits.train + splits.held_out + splits.validation
    return bpe_tokenizer(splits.train, shape.vocabulary) if shape.vocabulary else character_tokenizer(whole)


def encode(tokenizer: Any, text: str) -> torch.Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.int64)


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Weights that are made inside are drawn from `seed`. The CPU's generator is put back afterwards, and no other
    device's is touched (`torch.manual_seed` would move every GPU's too)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build(kind: Kind, tokenizer: Any, shape: Shape, seed: int, **more: Any) -> MixtureOfThoughtsTransformer:
    """A fresh model. The baseline's feed-forward is as wide as makes its parameters those that are active in the
    mixture. Weights come from `seed`; the global random state is put back."""
    if kind not in ("mixture", "baseline"):
        raise InputError(f"Unknown kind of model {kind!r}.", "Pass mixture or baseline.")
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "max_position_embeddings": max(1024, 4 * shape.context),
        **more,
    }
    config = MixtureOfThoughtsConfig(**settings)
    with drawn_from(seed):
        if kind == "mixture":
            return MixtureOfThoughtsTransformer(config)
        return StandardTransformer(equal_active(config))


def active_parameters(config: MixtureOfThoughtsConfig) -> int:
    """Parameters that a token's forward uses on average; the embedding counts once."""
    d, layers, k = config.hidden_size, config.num_hidden_layers, config.num_branches
    heads = config.num_attention_heads + 2 * int(config.num_key_value_heads or 0)
    attention = d * int(config.head_dim or 0) * heads + d * d
    mean = (config.branches_min + config.branches_max) / 2
    feed = 2 * d * int(config.shared_width or 0) + int(2 * mean * d * int(config.branch_width or 0))
    extra = 0
    if k > 1:
        rank = config.combiner_rank if config.combiner == "attention" else 0
        mode = d + k if config.modes else 0  # a thought's own
        prior = 0 if config.follow else d
        noise = d + 3 if config.noise != "none" and config.noise_scale else 0
        extra = (d + 1) * k + prior + 1 + mode + 2 * d * rank + noise
    embedding = config.vocab_size * d * (1 if config.tie_word_embeddings else 2)
    return embedding + layers * (attention + feed + extra + 2 * d) + d


def equal_active(config: MixtureOfThoughtsConfig) -> MixtureOfThoughtsConfig:
    """The standard transformer with as many parameters as are active in `config`, give or take one unit of width."""
    body = {
        **config.to_dict(),
        "num_branches": 1,
        "branch_width": 1,
        "shared_width": 0,
        "branches_min": 1,
        "branches_max": 1,
    }
    narrow = MixtureOfThoughtsConfig(**body)
    unit = 2 * config.hidden_size * config.num_hidden_layers
    width = max(1, round(1 + (active_parameters(config) - active_parameters(narrow)) / unit))
    return MixtureOfThoughtsConfig(**{**body, "branch_width": width, "intermediate_size": width})


def train_language(
    kind: Kind,
    splits: Splits,
    shape: Shape,
    config: TrainConfig,
    folder: Path | None = None,
    *,
    tokenizer: Any = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    windows: int = 0,
    **more: Any,
) -> tuple[MixtureOfThoughtsTransformer, Any, Trained]:
    """The trained model in eval mode, its tokenizer, and how the run went; saved to `folder` when one is given."""
    tokenizer = tokenizer or tokenizer_of(splits, shape)
    task = LanguageTask(
        encode(tokenizer, splits.train), encode(tokenizer, splits.validation), shape.context, config.seed, windows
    )
    model = build(kind, tokenizer, shape, config.seed, **more)
    trainer = Trainer(model, task, config, folder, on_step)
    done = trainer.run(resume)
    model = trainer.raw  # type: ignore[assignment]
    model.eval().requires_grad_(False)
    if folder is not None and not done.interrupted and trainer.accelerator.is_main_process:
        save(model, tokenizer, folder)
        loss_curve({kind: done.log}, folder / "training" / "loss.svg", f"{kind}: {done.steps} steps")
    return model, tokenizer, done


def save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Model and tokenizer into `folder`, complete before any old one there is replaced file by file."""
    from thoughtmix.models.quiet import quiet

    part = folder / ".part"
    with quiet():
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    for file in sorted(part.iterdir(), key=lambda f: f.name == "config.json"):  # config.json last: it marks a model
        file.replace(folder / file.name)
    part.rmdir()
