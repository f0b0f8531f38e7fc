"""Tune a graft: lessons, objective, trainer, and the folder that `--model` takes, brought up to date."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError, UnknownName

if TYPE_CHECKING:
    from thoughtmix.graft.tuning.lessons import Lesson
    from thoughtmix.graft.tuning.objectives import Objective
    from thoughtmix.graft.tuning.prompts import Context
    from thoughtmix.models import LanguageModel
    from thoughtmix.training.config import TrainConfig
    from thoughtmix.training.trainer import TrainingProgress, TrainingResult

OBJECTIVES = {
    "styles": "branch k answers as the base model does under context k (context distillation)",
    "modes": "the base model's own answers, split among the branches by what each likes best (hard EM)",
    "lm": "a corpus, through drawn routes",
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """objective: see `OBJECTIVES`. contrast: weight of the term that makes a branch recoverable from its text (lm: of
    what keeps two branches apart). samples, temperature, own: of the lessons (see `Teaching`). corpus: the text of
    lm."""

    objective: str = "styles"
    contrast: float = 0.1
    samples: int = 2
    own: float = 1.0
    temperature: float = 1.0
    max_new_tokens: int = 32
    corpus: Path | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UnknownName("objective", self.objective, OBJECTIVES)
        if (self.objective == "lm") != (self.corpus is not None):
            raise InputError("The objective lm, and no other, learns from a corpus.",
                             "Pass --objective lm --corpus FILE, or neither.")  # fmt: skip
        if self.samples < 1 or self.max_new_tokens < 1 or self.contrast < 0 or self.temperature < 0:
            raise InputError("A number is below what works.", "Pass --samples 1, --contrast 0, ... or more.")


def tune(
    lm: LanguageModel,
    folder: Path,
    prompts: Sequence[str],
    contexts: Sequence[Context],
    how: Tuning,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_lesson: Callable[[int, int], None] | None = None,
    on_step: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Teach the thoughts of `lm`, which was loaded from the graft in `folder`, and save them there; the base model
    stays as it is. Lessons and the state of training are kept in `folder`/training. Raises `InputError`."""
    from thoughtmix.graft.context import grafted
    from thoughtmix.graft.tuning.task import TuneTask
    from thoughtmix.training.trainer import train_and_save

    graft = grafted(lm.model)
    k = graft.config.num_branches
    if k < 2:
        raise InputError("A graft of one branch has no thoughts to tell apart.", "Graft 2 or more (--branches 8).")
    learned, held = _lessons(lm, folder, prompts, contexts, how, k, on_lesson)
    task = TuneTask(learned, held, objective(how, k), k, graft.config.tail, config.seed)
    for name, p in lm.model.named_parameters():
        p.requires_grad_("mot_" in name and "mot_noise" not in name)
    return train_and_save(how.objective, lm.model, task, config, folder, partial(save, lm), resume, on_step)


def objective(how: Tuning, branches: int) -> Objective:
    """The class behind the name."""
    from thoughtmix.graft.tuning import objectives

    kinds: dict[str, Any] = {"styles": objectives.Styles, "modes": objectives.Modes, "lm": objectives.Corpus}
    made: Objective = kinds[how.objective](branches, how.contrast)
    return made


def _lessons(
    lm: LanguageModel,
    folder: Path,
    prompts: Sequence[str],
    contexts: Sequence[Context],
    how: Tuning,
    branches: int,
    on_lesson: Callable[[int, int], None] | None,
) -> tuple[list[Lesson], list[Lesson]]:
    from thoughtmix.graft.tuning.lessons import Teaching, corpus_lessons, make_lessons
    from thoughtmix.graft.tuning.prompts import NO_ROW_STATE, open_prompts, parts

    if how.corpus is not None:
        return corpus_lessons(lm, how.corpus, how.max_new_tokens)
    teaching = Teaching(how.samples, how.own, how.temperature, max_new_tokens=how.max_new_tokens)
    if how.objective == "modes":
        contexts, teaching = [NO_ROW_STATE], dataclasses.replace(teaching, samples=how.samples * branches, top=0)
    elif len(contexts) != branches:
        raise InputError(f"{len(contexts)} contexts for {branches} branches.", f"Graft {len(contexts)} (--branches).")
    made = make_lessons(lm, prompts, contexts, teaching, folder / "training", on_lesson, open_prompts())
    _, checked = parts(prompts)
    aside = set(checked)
    return [x for x in made if x.prompt not in aside], [x for x in made if x.prompt in aside]


def save(lm: LanguageModel, folder: Path) -> None:
    """The graft's weights into `folder`, in float16, complete before the old ones are replaced."""
    import torch
    from safetensors.torch import save_file

    named = {name: p for name, p in lm.model.named_parameters() if ".mot_" in name}
    half = {  # by the names that PEFT gives them
        f"base_model.model.{name.removesuffix('.default')}": p.detach().to("cpu", torch.float16).contiguous()
        for name, p in named.items()
    }
    part = folder / ".adapter_model.safetensors"
    save_file(half, part, metadata={"format": "pt"})
    part.chmod(0o644)  # safetensors writes 0600
    part.replace(folder / "adapter_model.safetensors")
