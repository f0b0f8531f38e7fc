"""Train a Mixture-of-Thoughts transformer, or the baseline, on a text: from file to a folder that `--model` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from thoughtmix.core.errors import InputError
from thoughtmix.mixture.config import MixtureOfThoughtsConfig
from thoughtmix.mixture.model import MixtureOfThoughtsTransformer, StandardTransformer
from thoughtmix.models.text_encoder import TextEncoder
from thoughtmix.training.checkpoint import digest, save_model
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import Splits, bpe_tokenizer, character_tokenizer
from thoughtmix.training.modes import ModeSearch
from thoughtmix.training.task import LanguageTask
from thoughtmix.training.trainer import TrainingProgress, TrainingResult, train_and_save

Architecture = Literal["mixture", "baseline"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model, alike for a mixture, its baseline and a diffusion model. context: tokens of a training window.
    vocabulary: tokens of byte-level BPE; 0: a token a character."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 64
    vocabulary: int = 0


def tokenizer_of(splits: Splits, shape: Shape) -> Any:
    """The tokenizer that a model of this shape is trained with. Characters are taken from all splits: which letters
    exist is not what is learned."""
    whole = splits.train + splits.held_out + splits.validation
    return bpe_tokenizer(splits.train, shape.vocabulary) if shape.vocabulary else character_tokenizer(whole)


def encode(tokenizer: Any, text: str) -> torch.Tensor:
    """(length,) int64 ids of a text, as it stands: the name of a control token in it is text."""
    return torch.tensor(TextEncoder(tokenizer, "the model").text(text, frame=False), dtype=torch.int64)


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Weights that are made inside are drawn from `seed`. The CPU's generator is put back afterwards, and no other
    device's is touched (`torch.manual_seed` would move every GPU's too)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build_model(
    architecture: Architecture, tokenizer: Any, shape: Shape, seed: int, **fields: Any
) -> MixtureOfThoughtsTransformer:
    """Make a fresh model with weights from `seed`; `fields` are further ones of `MixtureOfThoughtsConfig`.

    The baseline's feed-forward is as wide as makes its parameters those that are active in the mixture. Global random
    state is left as it was. Raises `InputError` for an unknown architecture, or a field out of its range.
    """
    if architecture not in ("mixture", "baseline"):
        raise InputError(f"Unknown kind of model {architecture!r}.", "Pass mixture or baseline.")
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "max_position_embeddings": max(1024, 4 * shape.context),
        **fields,
    }
    config = MixtureOfThoughtsConfig(**settings)
    with drawn_from(seed):
        if architecture == "mixture":
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
    one_branch = {"num_branches": 1, "branch_width": 1, "shared_width": 0, "branches_min": 1, "branches_max": 1}
    body = {**config.to_dict(), **one_branch}
    narrow = MixtureOfThoughtsConfig(**body)
    unit = 2 * config.hidden_size * config.num_hidden_layers
    width = max(1, round(1 + (active_parameters(config) - active_parameters(narrow)) / unit))
    return MixtureOfThoughtsConfig(**{**body, "branch_width": width, "intermediate_size": width})


def train_language(
    architecture: Architecture,
    splits: Splits,
    shape: Shape,
    config: TrainConfig,
    folder: Path | None = None,
    *,
    tokenizer: Any = None,
    resume: bool = False,
    on_step: Callable[[TrainingProgress], None] | None = None,
    windows: int = 0,
    search: ModeSearch | None = None,
    **fields: Any,
) -> tuple[MixtureOfThoughtsTransformer, Any, TrainingResult]:
    """Train a mixture or its baseline on a text.

    Args:
        folder: Where the checkpoints and the model go; None: nothing is written.
        tokenizer: Default: `tokenizer_of` the splits.
        resume: Go on from the last checkpoint in the folder.
        on_step: Called after every step.
        windows: Validation windows looked at in one evaluation; 0: all of them.
        search: How modes, where there are some, learn a window.
        **fields: Further fields of `MixtureOfThoughtsConfig`.

    Returns:
        The trained model in eval mode, its tokenizer, and how the run went.
    """
    tokenizer = tokenizer or tokenizer_of(splits, shape)
    tokens, validation = encode(tokenizer, splits.train), encode(tokenizer, splits.validation)
    search = search or ModeSearch()
    task = LanguageTask(tokens, validation, shape.context, config.seed, windows, search)
    model = build_model(architecture, tokenizer, shape, config.seed, **fields)
    save = partial(save_model, model, tokenizer)
    about = identity(architecture, splits, tokenizer, shape, fields)
    if model.config.modes:
        about |= asdict(search)
    return model, tokenizer, train_and_save(architecture, model, task, config, folder, save, resume, on_step, about)


def identity(kind: str, splits: Splits, tokenizer: Any, shape: Shape, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a run learns from and what learns, by which it knows itself when it is resumed."""
    # What is cut off a text is learned from or looked at, or neither: all of it counts.
    text = "".join((splits.train, splits.held_out, splits.validation))
    words = tokenizer.backend_tokenizer.to_str()
    return {"kind": kind, "data": digest(text), **asdict(shape), "tokenizer": digest(words), **fields}
