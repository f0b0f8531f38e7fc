"""A corpus of short instructions with many right answers each, where right and different are counted and not judged.

Three kinds: a member of a category ("Name a bird"), of one of two ("Name a bird or a coat"), a number of a kind in a
range. Categories and members are WordNet's, read from the system; answers follow Zipf's law, so that each instruction
has a favourite, the commonest word first. What is held out of training: other *wordings* of what it asks, and
*combinations* of two categories, or of kind and range, that it has only apart.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thoughtmix.practice.wordnet import WordNet
from thoughtmix.practice.world import Category, categories

ZIPF = 1.5  # exponent of the answers' frequencies
MOST = 24  # answers of an instruction in training
SUBJECTS = 24
WORDINGS = ("Name {a} {x}", "Give me {a} {x}", "Tell me {a} {x}", "Say {a} {x}", "Which {x} comes to mind")
PARTS = ("development", "wordings", "combinations")


@dataclass(frozen=True)
class Instruction:
    """answers: in training's order of frequency. valid: all that count as right."""

    prompt: str
    answers: tuple[str, ...]
    valid: frozenset[str]

    @property
    def weights(self) -> tuple[float, ...]:
        return tuple(float(w) for w in np.arange(1, len(self.answers) + 1) ** -ZIPF)

    def right(self, text: str) -> str | None:
        """The answer in one form, or None where it is not right."""
        plain = " ".join(text.split()).casefold()
        return plain if plain in self.valid else None


def build_corpus(folder: Path, held_out: int, development: int) -> dict[str, list[Instruction]]:
    """training, and as many as asked for of development, wordings and combinations; no prompt is in two of them."""
    wordnet = WordNet.read(folder)
    common = word_counts(folder)
    training: list[Instruction] = []
    apart: dict[str, list[Instruction]] = {"wordings": [], "combinations": []}
    for name, number, instruction, single in _instructions(wordnet, common):
        if not single and _order(name) % 4 == 0:
            apart["combinations"].append(instruction)
        elif (_order(name) + number) % 5 == 0:
            apart["wordings"].append(instruction)
        else:
            training.append(instruction)
    out = {"training": training, "development": []}
    for part, found in apart.items():
        mixed = sorted(found, key=lambda i: _order(i.prompt))
        out["development"] += mixed[: development // 2]
        out[part] = mixed[development // 2 :][:held_out]
    return out


def _instructions(wordnet: WordNet, common: dict[str, int]) -> Iterator[tuple[str, int, Instruction, bool]]:
    """(what is asked, number of the wording, instruction, whether it is one thing and no combination)"""
    subjects = []
    for category in _subjects(wordnet, common):
        x = category.ways[0].partition("ind of ")[2].rstrip(".") or category.ways[0].split(" ", 2)[2].rstrip(".")
        valid = frozenset(way.casefold() for ways in category.members.values() for way in ways)
        subjects.append((x, _known(category, common), valid))
    for x, known, valid in subjects:
        for number, wording in enumerate(WORDINGS):
            yield x, number, Instruction(_worded(wording, x), known[:MOST], valid), True
    for (x, mine, valid), (y, theirs, more) in itertools.combinations(subjects, 2):
        name = f"{x} or {_worded('{a} {x}', y)}"
        if _order(f"{name} of pairs") % 3 == 0:
            known = tuple(sorted({*mine, *theirs}, key=lambda w: (-common[w], w)))[:MOST]
            for number in range(3):
                yield name, number, Instruction(_worded(WORDINGS[number], name), known, valid | more), False
    for name, own in _number_sets():
        for number in range(3):
            yield name, number, Instruction(_worded(WORDINGS[number], name), own, frozenset(own)), False


def _number_sets() -> Iterator[tuple[str, tuple[str, ...]]]:
    tests = {"even number": 2, "multiple of 3": 3, "multiple of 5": 5, "multiple of 7": 7}
    for low in range(0, 80, 10):
        for width in (20, 35):
            inside = range(low, low + width + 1)
            kinds = {kind: [n for n in inside if n % d == 0] for kind, d in tests.items()}
            kinds["odd number"] = [n for n in inside if n % 2]
            for kind, numbers in kinds.items():
                if len(numbers) >= 4:
                    name = f"{kind} between {low} and {low + width}"
                    yield name, tuple(sorted(map(str, numbers), key=lambda n: _order(f"{n} of numbers")))


def _subjects(wordnet: WordNet, common: dict[str, int]) -> list[Category]:
    found = [c for c in categories(wordnet) if len(_known(c, common)) >= 12]
    return sorted(found, key=lambda c: -len(_known(c, common)))[:SUBJECTS]


def _known(category: Category, common: dict[str, int]) -> tuple[str, ...]:
    words = {w for ways in category.members.values() for w in ways if re.fullmatch("[a-z]{3,10}", w) and w in common}
    return tuple(sorted(words, key=lambda w: (-common[w], w)))


def word_counts(folder: Path) -> dict[str, int]:
    """How often each word of WordNet's was met as a noun in the texts it was tagged in."""
    counts: dict[str, int] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split()
        word, _, kind = key.partition("%")
        if kind.startswith("1"):
            counts[word] = counts.get(word, 0) + int(count)
    return counts


def _worded(wording: str, x: str) -> str:
    return wording.format(a="an" if x[0] in "aeiou" else "a", x=x)


def _order(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def summary(corpus: dict[str, list[Instruction]]) -> str:
    lines = [f"{part}: {len(found)} instructions" for part, found in corpus.items()]
    shares = [i.weights[0] / sum(i.weights) for i in corpus["training"]]
    return "; ".join(lines) + f"; the favourite has {np.mean(shares):.2f} of the answers"


def shown(found: Sequence[Instruction], count: int = 4) -> str:
    return "\n".join(f"{i.prompt}: {', '.join(i.answers[:6])} ({len(i.valid)} right)" for i in found[:count])
