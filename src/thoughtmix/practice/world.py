"""A world to practise in, with nothing of what is reported in it.

Categories are split in three by their names alone: 60 to report on, some to look at while training, the others to learn
from. What is learned from, or looked at, shares less than a quarter of the answers of any reported category and of any
held-out task of the bench; categories to report on share less than a quarter with any task of the bench.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from thoughtmix.bench.config import split_items
from thoughtmix.bench.tasks import Item, answer_parser, coverage_tasks
from thoughtmix.bench.tasks.answers import AnswerSet, answer_sets, flat
from thoughtmix.bench.tasks.items import AnswerParser
from thoughtmix.bench.tasks.puzzles import PUZZLES, puzzle_tasks
from thoughtmix.graft.tuning.prompts import open_prompts
from thoughtmix.graft.tuning.set_prompts import PracticePrompt, spread_over_kinds
from thoughtmix.practice.puzzles import number_puzzles, word_puzzles
from thoughtmix.practice.wordnet import WordNet

DEVELOPMENT = 0.3
"""The share of the bench's tasks that may be practised: the README's split (`thoughtmix bench --development 0.3`)."""
REPORTED = 60
SHARED = 0.25
"""No reported task shares as much of its answers with what is practised."""
SHOWN = ("chair.1", "bird.1")
"""Always reported on: the documentation shows answers of theirs."""
VALIDATED = 60
_INDECENT = re.compile(r"sex|prostitut|whore|slave|murder|negro")
_FEWEST, _MOST = 10, 1500  # members of a category
_KNOWN = 6  # common words among them, where they are practised: what is hardly ever right teaches nothing
_KINDS = (
    "Name a kind of {x}.",
    "Name a type of {x}.",
    "Give an example of a kind of {x}.",
    "Which kind of {x} comes to mind? Name one.",
)
_NAMES = ("Name {a} {x}.", "Give me the name of {a} {x}.", "Tell me one {x}.", "Which {x} comes to mind? Name one.")


@dataclass(frozen=True)
class Category:
    """A category of WordNet, how it is asked for, and its members, each with all ways to write it."""

    name: str
    ways: tuple[str, ...]
    members: dict[str, tuple[str, ...]]

    @property
    def parse(self) -> AnswerParser:
        return AnswerSet(self.ways[0], self.ways[1:], self.members).parse

    @property
    def answers(self) -> frozenset[str]:
        return spelled(way for ways in self.members.values() for way in ways)


@dataclass(frozen=True)
class World:
    """What is practised on, what is looked at meanwhile, and what to report on."""

    practice: tuple[PracticePrompt, ...]
    validation: tuple[PracticePrompt, ...]
    reported: tuple[Category, ...]


def spelled(answers: Iterable[str]) -> frozenset[str]:
    """Answers in a form in which equal ones are equal."""
    return frozenset(flat(a.removeprefix("=")).casefold() for a in answers)


def shares(own: Collection[str], reported: Iterable[Collection[str]]) -> bool:
    """Whether `own` has a quarter or more of the answers of a reported task."""
    mine = frozenset(own)
    return any(len(mine.intersection(theirs)) >= SHARED * max(1, len(theirs)) for theirs in reported)


def task_answers(item: Item) -> frozenset[str]:
    """All single answers of a task of the bench; of puzzles those up to 5000, none where several numbers make one."""
    group, _, name = item.id.partition("/")
    if group == "coverage":
        return spelled(way for ways in answer_sets()[name].answers.values() for way in ways)
    puzzle = PUZZLES[name]
    return frozenset(str(n) for n in range(5001) if puzzle.right(n)) if puzzle.count == 1 else frozenset()


def categories(wordnet: WordNet) -> list[Category]:
    """Those of categories.toml that have members enough, each once."""
    text = tomllib.loads(files(__package__).joinpath("categories.toml").read_text(encoding="utf-8"))
    out: dict[str, Category] = {}
    for part, templates in (("kinds", _KINDS), ("names", _NAMES)):
        for entry in text[part].split():
            key, _, phrase = entry.partition("=")
            lemma, _, sense = key.rpartition(".")
            members = wordnet.members(lemma, int(sense))
            if _FEWEST <= len(members) <= _MOST:
                x = (phrase or lemma).replace("_", " ")
                a = "an" if x[0].lower() in "aeiou" and not x.startswith("uni") else "a"
                out[key] = Category(key, tuple(t.format(x=x, a=a) for t in templates), members)
    return list(out.values())


def found_categories(wordnet: WordNet, listed: Collection[str]) -> list[Category]:
    """All other nouns with members enough, in their first sense, a synset once: what a graft may practise beside the
    everyday ones. Whether the model knows members of theirs is found out by asking it (`graft/tuning/known.py`)."""
    out, seen = [], {wordnet.senses[lemma.lower()][0] for lemma in listed if lemma.lower() in wordnet.senses}
    for lemma in sorted(wordnet.senses):
        words = lemma.split("_")
        sensible = len(words) <= 2 and all(w.isalpha() and w.isascii() for w in words)
        if not sensible or not all(w in wordnet.common for w in words) or _INDECENT.search(lemma):
            continue
        members = wordnet.members(lemma, 1)
        top = wordnet.senses[lemma][0]
        if top in seen or not _FEWEST <= len(members) <= _MOST:
            continue
        seen.add(top)
        x = lemma.replace("_", " ")
        out.append(Category(f"{lemma}.1", tuple(t.format(x=x) for t in _KINDS), members))
    return out


def build_world(wordnet: WordNet, reported: int = REPORTED, validated: int = VALIDATED) -> World:
    """All of it.

    Args:
        wordnet: Where categories and words come from.
        reported: How many categories are for reporting.
        validated: How many prompts are looked at while training.
    """
    development, held_out = split_items([*coverage_tasks(), *puzzle_tasks()], DEVELOPMENT)
    benched = [a for item in (*development, *held_out) if (a := task_answers(item))]
    mixed = sorted(categories(wordnet), key=lambda c: (c.name not in SHOWN, _order(c.name)))
    free = [c for c in mixed if not shares(c.answers, benched)]
    apart, others = free[:reported], free[reported:]
    kept_out = [a for item in held_out if (a := task_answers(item))] + [c.answers for c in apart]
    found = found_categories(wordnet, [c.name.rpartition(".")[0] for c in mixed])
    learned: list[PracticePrompt] = [
        PracticePrompt(f"category/{c.name}", "category", c.ways, _valid(c.parse))
        for c in (*others, *found)
        if len(c.answers & wordnet.common) >= _KNOWN and not shares(c.answers, kept_out)
    ]
    learned += [
        PracticePrompt(item.id, "task", (item.prompt, *item.paraphrases), _valid(answer_parser(item)))
        for item in development
        if not shares(task_answers(item), kept_out)
    ]
    puzzles = [*number_puzzles(), *word_puzzles(wordnet.common)]
    learned += [
        PracticePrompt(f"puzzle/{p.name}", "puzzle", p.ways, _valid(p.parse))
        for p in puzzles
        if not shares(p.answers, kept_out)
    ]
    learned += [PracticePrompt(f"open/{prompt}", "open", (prompt,)) for prompt in sorted(open_prompts())]
    return _split(learned, tuple(apart), validated, {f"category/{c.name}" for c in found})


def _split(
    learned: Sequence[PracticePrompt], reported: tuple[Category, ...], validated: int, found: Collection[str]
) -> World:
    """The bench's tasks are few, so that all of them are practised, and what is looked at are everyday categories."""
    mixed = sorted((p for p in learned if p.kind != "task" and p.name not in found), key=lambda p: _order(p.name))
    looked_at = spread_over_kinds(mixed, validated)
    names = {p.name for p in looked_at}
    return World(tuple(p for p in learned if p.name not in names), tuple(looked_at), reported)


def _order(name: str) -> str:
    """An order that nobody chose."""
    return hashlib.sha256(f"practice {name}".encode()).hexdigest()


def _valid(parse: AnswerParser) -> Callable[[str], str | None]:
    def answer(text: str) -> str | None:
        found = parse(text)
        return found.answer if found.valid else None

    return answer
