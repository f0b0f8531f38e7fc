"""What a graft knows of the prompts that it may practise: it is asked, once, and its right answers are kept.

A prompt that is hardly ever answered rightly teaches nothing, and one that always is has little left to teach. The
distinct right answers are also what `--objective spread` teaches, each with equal weight.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from thoughtmix.core.files import append_line, bounded_text
from thoughtmix.graft.tuning.set_prompts import PracticePrompt
from thoughtmix.graft.tuning.set_task import SetConfig, SetTask
from thoughtmix.models import LanguageModel

REACH = (0.05, 0.95)
"""Shares of right answers between which a prompt is practised."""
ASKED = 2  # sets of each prompt, each in another way
_AT_ONCE = 24  # sets
_AT_ONCE_ON_GPU = 96


@dataclass(frozen=True, slots=True)
class Known:
    """Of one prompt: the share of right answers, and of each distinct one (way to ask, token ids), as first given."""

    valid: float
    answers: dict[str, tuple[int, tuple[int, ...]]]


def ask(
    task: SetTask,
    prompts: Sequence[PracticePrompt],
    kept: Path,
    on_progress: Callable[[int, int], None] | None = None,
    turns: int = ASKED,
) -> dict[str, Known]:
    """What the graft answers to prompts whose answers can be checked, by name, of so many sets each. What it was asked
    before is read from `kept`, where the rest is added."""
    known = _read(kept)
    checked = [p for p in prompts if p.answer is not None]
    left = [p for p in checked if p.name not in known]
    at_once = max(1, (_AT_ONCE if task.lm.device.type == "cpu" else _AT_ONCE_ON_GPU) // turns)
    for at in range(0, len(left), at_once):
        some = left[at : at + at_once]
        asked = [(p, k % len(p.ways), _first_seed(p, k)) for p in some for k in range(turns)]
        sets = task.draw(asked)
        for i, p in enumerate(some):
            given: list[tuple[str | None, int, tuple[int, ...]]] = []
            for k in range(turns * i, turns * (i + 1)):
                ids = [tuple(o.token_ids) for o in sets[k].outputs]
                given += zip(sets[k].answers, [asked[k][1]] * len(ids), ids, strict=True)
            answers: dict[str, tuple[int, tuple[int, ...]]] = {}
            for answer, way, tokens in given:
                if answer is not None:
                    answers.setdefault(answer, (way, tokens))
            known[p.name] = Known(sum(a is not None for a, _, _ in given) / len(given), answers)
            row = [p.name, known[p.name].valid, [[a, *found] for a, found in answers.items()]]
            append_line(kept, json.dumps(row, separators=(",", ":")))
        if on_progress:
            on_progress(len(checked) - len(left) + at + len(some), len(checked))
    return {p.name: known[p.name] for p in checked}


def _first_seed(prompt: PracticePrompt, turn: int) -> int:
    """Of a set's draws, which are the same whatever was asked before."""
    return 64 * (int(hashlib.sha256(prompt.name.encode()).hexdigest()[:10], 16) * ASKED + turn)


def within_reach(prompts: Sequence[PracticePrompt], known: dict[str, Known]) -> list[PracticePrompt]:
    """The open prompts, and those answered rightly sometimes but not always."""
    low, high = REACH
    return [p for p in prompts if p.answer is None or low < known[p.name].valid < high]


def ask_graft(
    lm: LanguageModel,
    folder: Path,
    practice: Sequence[PracticePrompt],
    validation: Sequence[PracticePrompt],
    settings: SetConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Known]:
    """`ask` of both, kept in the folder's `training`, so that runs that follow each other practise the same."""
    checked = [p for p in (*practice, *validation) if p.answer is not None]
    task = SetTask(lm, checked, checked, None, settings)
    return ask(task, checked, folder / "training" / "known.jsonl", on_progress)


def _read(path: Path) -> dict[str, Known]:
    out: dict[str, Known] = {}
    for line in bounded_text(path, 2**30).splitlines() if path.exists() else []:
        try:
            name, valid, answers = json.loads(line)
        except ValueError:
            continue  # the line that was being written when a run was stopped
        out[name] = Known(valid, {a: (way, tuple(ids)) for a, way, ids in answers})
    return out
