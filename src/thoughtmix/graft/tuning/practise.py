"""Tuning a graft on what it practises: its own right answers spread evenly (`spread`), and set reward (`set`)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from thoughtmix.core.errors import InputError
from thoughtmix.graft.adapter import Graft, require_graft
from thoughtmix.graft.export import save_weights
from thoughtmix.graft.tuning.distillation import DistillationSample
from thoughtmix.graft.tuning.known import Known, ask_graft, within_reach
from thoughtmix.graft.tuning.objectives import ModesObjective, Objective, SpreadObjective
from thoughtmix.graft.tuning.set_prompts import PracticePrompt
from thoughtmix.graft.tuning.set_task import SetConfig, SetTask
from thoughtmix.graft.tuning.tune import TuneTask
from thoughtmix.models import LanguageModel
from thoughtmix.models.embed import Embedder
from thoughtmix.models.encoder_decoder import require_decoder_only
from thoughtmix.training.checkpoint import digest
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.trainer import TrainingProgress, TrainingResult, train_and_save

Assignment = Literal["turns", "liked", "initial"]
ASSIGNMENTS = get_args(Assignment)
"""Which branch is taught which answer. turns: each of a prompt's the next; liked: the branch that likes it best, every
branch as often (hard EM: `ModesObjective`); initial: by the answer's first letter, which other prompts' answers have,
too."""
OnAsked = Callable[[int, int], None]
OnStep = Callable[[TrainingProgress], None]


def tune_sets(
    lm: LanguageModel,
    folder: Path,
    practice: Sequence[PracticePrompt],
    validation: Sequence[PracticePrompt],
    settings: SetConfig,
    config: TrainConfig,
    *,
    embedder: Embedder | None = None,
    resume: bool = False,
    on_asked: OnAsked | None = None,
    on_step: OnStep | None = None,
) -> TrainingResult:
    """Teach the branches of a graft by set reward and save them; the base model stays as it is.

    Args:
        lm: Loaded from the graft in `folder`.
        folder: Of the graft; what it knows and the state of training are kept in its `training`.
        practice: What is practised on; of prompts whose answers can be checked, those that it sometimes answers right.
        validation: What is only looked at, chosen alike.
        settings: How.
        config: Of the trainer; `batch_size` prompts are drawn for a step.
        embedder: Says what open answers are about and how far they lie apart; None where no prompt is open.
        resume: Go on from the last checkpoint, bit for bit.
        on_asked: Is told of how many prompts it is known how the graft answers, of how many.
        on_step: Is told how training goes.

    Raises:
        InputError: There is nothing to practise, or a set would be a single thought.
    """
    graft, known = _asked(lm, folder, practice, validation, settings, on_asked)
    practised, looked_at = within_reach(practice, known), within_reach(validation, known)
    task = SetTask(lm, practised, looked_at, embedder, settings, config.seed)
    about = {"objective": "set", **dataclasses.asdict(settings), **_shape(graft)}
    about["prompts"] = digest([(p.name, p.ways) for p in (*practised, *looked_at)])
    return train_and_save("set", lm.model, task, config, folder, partial(save_weights, lm), resume, on_step, about)


def tune_spread(
    lm: LanguageModel,
    folder: Path,
    practice: Sequence[PracticePrompt],
    validation: Sequence[PracticePrompt],
    settings: SetConfig,
    config: TrainConfig,
    *,
    assignment: Assignment = "turns",
    resume: bool = False,
    on_asked: OnAsked | None = None,
    on_step: OnStep | None = None,
) -> TrainingResult:
    """Teach the branches the distinct right answers that the graft itself gives, each with equal weight. As
    `tune_sets`; a step has `batch_size` answers.

    Args:
        assignment: Which branch is taught which answer: one of `ASSIGNMENTS`.

    Raises:
        InputError: There is nothing to learn, or no such assignment.
    """
    if assignment not in ASSIGNMENTS:
        raise InputError(f"Unknown assignment {assignment!r}.", f"Pass one of {', '.join(ASSIGNMENTS)}.")
    graft, known = _asked(lm, folder, practice, validation, settings, on_asked)
    k = graft.config.num_branches
    learned, held = (_samples(lm, some, known, k, config.seed, assignment) for some in (practice, validation))
    objective: Objective = ModesObjective(k, 0.0) if assignment == "liked" and k > 1 else SpreadObjective(k)
    task = TuneTask(learned, held, objective, k, graft.config.tail, config.seed)
    about = {
        "objective": "spread",
        "assignment": assignment,
        **_shape(graft),
        "samples": digest([(x.prompt_ids, x.ids) for x in learned]),
    }
    return train_and_save("spread", lm.model, task, config, folder, partial(save_weights, lm), resume, on_step, about)


def _asked(
    lm: LanguageModel,
    folder: Path,
    practice: Sequence[PracticePrompt],
    validation: Sequence[PracticePrompt],
    settings: SetConfig,
    on_asked: OnAsked | None,
) -> tuple[Graft, dict[str, Known]]:
    """The graft, with what learns of it, and what it knows."""
    require_decoder_only(lm.model, "tuning")
    graft = require_graft(lm.model)
    known = ask_graft(lm, folder, practice, validation, dataclasses.replace(settings, temperature=1.0), on_asked)
    for name, p in lm.model.named_parameters():
        p.requires_grad_("mot_A" in name or "mot_B" in name)
    return graft, known


def _shape(graft: Graft) -> dict[str, Any]:
    return {name: getattr(graft.config, name) for name in ("num_branches", "r", "noise", "combiner")}


def _samples(
    lm: LanguageModel,
    prompts: Sequence[PracticePrompt],
    known: dict[str, Known],
    branches: int,
    seed: int,
    assignment: Assignment,
) -> list[DistillationSample]:
    """Each right answer once, with its branch: see `ASSIGNMENTS`."""
    rng = np.random.default_rng([seed, 92])
    checked = [p for p in prompts if p.answer is not None]
    of_initial = initials((answer for found in known.values() for answer in found.answers), branches)
    out = []
    for p in checked:
        first = int(rng.integers(branches))
        for i, (answer, (way, ids)) in enumerate(known[p.name].answers.items()):
            branch = of_initial[_initial(answer)] if assignment == "initial" else first + i
            out.append(DistillationSample(p.name, tuple(lm.encode(p.ways[way])), branch % branches, ids, ()))
    return out


def _initial(answer: str) -> str:
    """What an answer is sorted by: its first letter; of a number its last digit."""
    text = answer.strip().casefold()
    return text[-1:] if text[:1].isdigit() else text[:1]


def initials(answers: Iterable[str], groups: int) -> dict[str, int]:
    """Group of each initial, such that the groups have about as many of the answers each, letters and digits apart."""
    count = Counter(_initial(answer) for answer in answers)
    out: dict[str, int] = {}
    for digits in (False, True):
        some = sorted(x for x in count if x.isdigit() == digits)
        total, before = sum(count[x] for x in some), 0
        for x in some:
            out[x] = min(groups - 1, int(groups * (before + count[x] / 2) / total))
            before += count[x]
    return out
