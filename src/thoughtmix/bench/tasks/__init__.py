"""What the bench asks: open prompts from a file, coverage tasks with known answers, puzzles, countdown, writing."""

from __future__ import annotations

import functools
import tomllib
from importlib.resources import files
from typing import Any

from thoughtmix.bench.tasks import countdown, writing
from thoughtmix.bench.tasks.item import Item, Kind, Reader, Reading
from thoughtmix.bench.tasks.parse import AnswerSet, answer_lines, merged
from thoughtmix.bench.tasks.prompts import read_prompts
from thoughtmix.bench.tasks.puzzles import PUZZLES, puzzles
from thoughtmix.core.errors import InputError, UnknownName

__all__ = ["FAMILIES", "Item", "Kind", "Reader", "Reading", "coverage_tasks", "family", "read_prompts", "reader"]


def coverage_tasks() -> list[Item]:
    """Every task with a list of answers, in the order of the files."""
    return [Item(f"coverage/{name}", "coverage", s.prompt, ways) for name, (s, ways) in _sets().items()]


FAMILIES = {
    "coverage": coverage_tasks,
    "puzzles": puzzles,
    "countdown": lambda: countdown.problems(40),
    "writing": lambda: writing.problems(40),
}


def family(name: str) -> list[Item]:
    """The items of a family of tasks. Raises `UnknownName`."""
    if name not in FAMILIES:
        raise UnknownName("task family", name, FAMILIES)
    return FAMILIES[name]()


def reader(item: Item) -> Reader:
    """What reads the answers to an item. Raises `InputError` for an open prompt, which has no known answers."""
    group, _, name = item.id.partition("/")
    if group == "coverage" and name in _sets():
        return _sets()[name][0].read
    if group == "puzzle" and name in PUZZLES:
        return PUZZLES[name].read
    if group == "countdown":
        return functools.partial(countdown.read, numbers=item.data["numbers"], target=item.data["target"])
    if group == "writing":
        return functools.partial(writing.read, **item.data)
    raise InputError(f"{item.id} has no known answers.", "Score it with a judge.")


@functools.cache
def _sets() -> dict[str, tuple[AnswerSet, tuple[str, ...]]]:
    out: dict[str, tuple[AnswerSet, tuple[str, ...]]] = {}
    for file in sorted(files(__package__).joinpath("data").iterdir(), key=lambda f: f.name):
        body = tomllib.loads(file.read_text(encoding="utf-8"))
        shared = bool(body.pop("shared", False))
        answers = {name: answer_lines(task["answers"]) for name, task in body.items()}
        for name, task in body.items():
            wrong = task.get("others", [n for n in answers if n != name] if shared else [])
            others = merged(answers[n] for n in wrong)
            out[name] = (_answer_set(task, answers[name], others), tuple(task["paraphrases"]))
    return out


def _answer_set(task: dict[str, Any], answers: dict[str, Any], others: dict[str, Any]) -> AnswerSet:
    ignore = frozenset(task.get("ignore", ()))
    return AnswerSet(task["prompt"], answers, others, bool(task.get("quoted", False)), ignore)
