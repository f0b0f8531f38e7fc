"""Tune a graft: samples, objective, trainer, and the folder that `--model` takes, brought up to date."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.graft.adapter import require_graft
from thoughtmix.graft.config import MoTConfig
from thoughtmix.graft.export import save_weights
from thoughtmix.graft.tuning.distillation import DistillationConfig, DistillationSample, corpus_samples, make_samples
from thoughtmix.graft.tuning.objectives import (
    Batch,
    CorpusObjective,
    ModesObjective,
    Objective,
    Student,
    StylesObjective,
    answer_logprobs,
    collate,
    divergence,
)
from thoughtmix.graft.tuning.prompts import NO_CONTEXT, PromptContext, open_prompts, train_validation_split
from thoughtmix.models import LanguageModel
from thoughtmix.models.encoder_decoder import require_decoder_only
from thoughtmix.training.checkpoint import digest
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.pace import evenly
from thoughtmix.training.trainer import TrainingProgress, TrainingResult, train_and_save

OBJECTIVES: Mapping[str, Callable[[int, float], Objective]] = {
    "styles": StylesObjective,
    "modes": ModesObjective,
    "lm": CorpusObjective,
}


@dataclass(frozen=True, slots=True)
class TuningConfig:
    """What branches are taught.

    Args:
        objective: A name of `OBJECTIVES`.
        contrast: Weight of the term that makes a branch recoverable from its text (lm: that keeps two branches apart).
        distillation: How samples are made; of lm, `max_new_tokens` is the length of a window.
        corpus: The text of lm.

    Raises:
        UnknownName: There is no such objective.
        InputError: A value does not fit.
    """

    objective: str = "styles"
    contrast: float = 0.1
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    corpus: Path | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UnknownName("objective", self.objective, OBJECTIVES)
        if (self.objective == "lm") != (self.corpus is not None):
            raise InputError(
                "The objective lm, and no other, learns from a corpus.",
                "Pass --objective lm --corpus FILE, or neither.",
            )
        if self.contrast < 0:
            raise InputError("A number is below what works.", "Pass --contrast 0, or more.")


def tune(
    lm: LanguageModel,
    folder: Path,
    prompts: Sequence[str],
    contexts: Sequence[PromptContext],
    tuning: TuningConfig,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_sample: Callable[[int, int], None] | None = None,
    on_step: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Teach the branches of a graft and save them; the base model stays as it is.

    Args:
        lm: Loaded from the graft in `folder`.
        folder: Of the graft; samples and the state of training are kept in its `training`.
        prompts: To learn from, and a tenth to validate on.
        contexts: Of each branch.
        tuning: What is taught.
        config: Of the trainer.
        resume: Go on from the last checkpoint.
        on_sample: Is told how many prompts have been answered, of how many.
        on_step: Is told how training goes.

    Raises:
        InputError: There is nothing to teach, or not one context a branch.
    """
    require_decoder_only(lm.model, "tuning")
    graft = require_graft(lm.model)
    k = graft.config.num_branches
    if k < 2:
        raise InputError("A graft of one branch has no thoughts to tell apart.", "Graft 2 or more (--branches 8).")
    learned, held = _samples(lm, folder, prompts, contexts, tuning, k, on_sample)
    objective = OBJECTIVES[tuning.objective](k, tuning.contrast)
    task = TuneTask(learned, held, objective, k, graft.config.tail, config.seed)
    for name, p in lm.model.named_parameters():
        p.requires_grad_("mot_" in name and "mot_noise" not in name)
    save = partial(save_weights, lm)
    about = _identity(graft.config, prompts, contexts, tuning, learned)
    return train_and_save(tuning.objective, lm.model, task, config, folder, save, resume, on_step, about)


def _identity(
    graft: MoTConfig,
    prompts: Sequence[str],
    contexts: Sequence[PromptContext],
    tuning: TuningConfig,
    learned: Sequence[DistillationSample],
) -> dict[str, Any]:
    """What a run learns from and what learns, by which it knows itself when it is resumed."""
    about: dict[str, Any] = {
        "objective": tuning.objective,
        "contrast": tuning.contrast,
        "num_branches": graft.num_branches,
    }
    about |= {name: getattr(graft, name) for name in ("r", "route", "router", "noise", "combiner")}
    if tuning.corpus is None:
        about |= {"prompts": digest(list(prompts)), "contexts": digest([str(c) for c in contexts])}
    about |= dataclasses.asdict(tuning.distillation)
    # Last: where nothing above differs, the base model or its tokenizer does, or the corpus.
    return {**about, "corpus" if tuning.corpus else "samples": digest([(x.prompt_ids, x.ids) for x in learned])}


def _samples(
    lm: LanguageModel,
    folder: Path,
    prompts: Sequence[str],
    contexts: Sequence[PromptContext],
    tuning: TuningConfig,
    branches: int,
    on_sample: Callable[[int, int], None] | None,
) -> tuple[list[DistillationSample], list[DistillationSample]]:
    """To learn from, and to validate on."""
    if tuning.corpus is not None:
        return corpus_samples(lm, tuning.corpus, tuning.distillation.max_new_tokens)
    config = tuning.distillation
    if tuning.objective == "modes":
        contexts, config = [NO_CONTEXT], dataclasses.replace(config, samples=config.samples * branches, top=0)
    elif len(contexts) != branches:
        raise InputError(f"{len(contexts)} contexts for {branches} branches.", f"Graft {len(contexts)} (--branches).")
    made = make_samples(lm, prompts, contexts, config, folder / "training", on_sample, open_prompts())
    aside = set(train_validation_split(prompts)[1])
    return [x for x in made if x.prompt not in aside], [x for x in made if x.prompt in aside]


class TuneTask:
    """The trainer's `Task` over samples.

    A batch is a function of the step, so that a run resumed sees the same ones. Samples of like length share a batch;
    which samples, and in which order, follows from the seed.
    """

    def __init__(
        self,
        samples: Sequence[DistillationSample],
        validation: Sequence[DistillationSample],
        objective: Objective,
        branches: int,
        tail: int,
        seed: int = 0,
    ) -> None:
        if not samples or not validation:
            raise InputError("There are no lessons to learn from or to check by.", "Pass more prompts (--prompts).")
        self.objective, self.branches, self.tail, self.seed = objective, branches, tail, seed
        rng = np.random.default_rng([seed, 79])
        mixed = [samples[i] for i in rng.permutation(len(samples))]
        self.samples = sorted(mixed, key=lambda sample: len(sample.ids) // 4)  # stable: mixed within like lengths
        chosen = [validation[i] for i in rng.permutation(len(validation))[:48]]
        self.validation = sorted(chosen, key=lambda sample: len(sample.ids))

    def batch(self, step: int, rows: range, total: int) -> Batch:
        per_epoch = max(1, len(self.samples) // total)
        epoch, at = divmod(step, per_epoch)
        rng = np.random.default_rng([self.seed, 80, epoch])
        shift = int(rng.integers(len(self.samples)))
        start = int(rng.permutation(per_epoch)[at]) * total + shift
        mine = [self.samples[(start + i) % len(self.samples)] for i in rows]
        draws = np.random.default_rng([self.seed, 81, step]).integers(0, 2**62, total)[rows.start : rows.stop]
        return {**collate(mine, self.tail), "draws": torch.from_numpy(draws)}

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, logs = self.objective(model, batch, batch["draws"])
        return loss, {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def evaluate(self, model: Any, share: float = 1.0) -> dict[str, float]:
        """On a share of the samples of prompts not learned from: `val_loss`, KL from the teacher (nats a token; the NLL
        where there is none); `val_recovered`, the share of answers whose branch is the likeliest of four (chance
        0.25)."""
        total, count, right = 0.0, 0, 0
        device = next(model.parameters()).device
        rng = np.random.default_rng([self.seed, 82])
        chosen = [self.validation[i] for i in evenly(len(self.validation), share)]
        for at in range(0, len(chosen), 16):
            batch = {k: v.to(device) for k, v in collate(chosen[at : at + 16], self.tail).items()}
            student = Student(model, batch, self.branches)
            logprobs = student(batch["branch"])
            tokens = int(batch["counted"].sum())
            own = answer_logprobs(logprobs, batch)
            taught = batch["top"].shape[-1] > 0
            total += float(divergence(logprobs, batch)) * tokens if taught else -float(own.sum())
            count += tokens
            best = torch.ones_like(own, dtype=torch.bool)
            for step in 1 + rng.permutation(self.branches - 1)[:3]:
                other = (batch["branch"] + int(step)) % self.branches
                best &= own > answer_logprobs(student(other), batch)
            right += int(best.sum())
        return {"val_loss": total / count, "val_recovered": right / len(chosen)}
