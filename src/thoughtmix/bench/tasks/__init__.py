"""What the bench asks: open prompts from a file, coverage tasks with known answers, puzzles, countdown, writing."""

from __future__ import annotations

import functools

from thoughtmix.bench.tasks import countdown, writing
from thoughtmix.bench.tasks.answers import answer_sets
from thoughtmix.bench.tasks.items import AnswerParser, Item, ParsedAnswer, TaskKind, read_prompts
from thoughtmix.bench.tasks.puzzles import PUZZLES, puzzle_tasks
from thoughtmix.core.errors import InputError, UnknownName

__all__ = [
    "FAMILIES",
    "AnswerParser",
    "Item",
    "ParsedAnswer",
    "TaskKind",
    "answer_parser",
    "coverage_tasks",
    "family",
    "read_prompts",
]


def coverage_tasks() -> list[Item]:
    """Every task with a list of answers, in the order of the files."""
    return [Item(f"coverage/{name}", "coverage", s.prompt, s.paraphrases) for name, s in answer_sets().items()]


FAMILIES = {
    "coverage": coverage_tasks,
    "puzzles": puzzle_tasks,
    "countdown": lambda: countdown.problems(40),
    "writing": lambda: writing.problems(40),
}


def family(name: str) -> list[Item]:
    """The items of a family of tasks. Raises `UnknownName`."""
    if name not in FAMILIES:
        raise UnknownName("task family", name, FAMILIES)
    return FAMILIES[name]()


def answer_parser(item: Item) -> AnswerParser:
    """What reads the answer in a text. Raises `InputError` for an open prompt, which has no known answers."""
    group, _, name = item.id.partition("/")
    if group == "coverage" and name in answer_sets():
        return answer_sets()[name].parse
    if group == "puzzle" and name in PUZZLES:
        return PUZZLES[name].parse
    if group == "countdown":
        return functools.partial(countdown.parse, numbers=item.data["numbers"], target=item.data["target"])
    if group == "writing":
        return writing.Constraint(**item.data).parse
    raise InputError(f"{item.id} has no known answers.", "Score it with a judge.")
