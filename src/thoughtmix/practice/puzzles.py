"""Puzzles with many right answers, checked by a rule or against the words that WordNet's authors met."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from thoughtmix.bench.tasks.answers import AnswerSet
from thoughtmix.bench.tasks.items import AnswerParser
from thoughtmix.bench.tasks.puzzles import Puzzle

LETTERS = "acdefghiklnoprstuvw"
BEGINNINGS = ("st", "tr", "pl", "un", "re", "con", "sh", "ch", "gr", "th")
ENDINGS = ("ing", "tion", "ness", "er", "ly", "ful", "able", "ment", "ous", "ty")
INSIDE = "jkqvxz"


@dataclass(frozen=True)
class MadePuzzle:
    """A puzzle: how it is asked, what reads an answer, and the answers as texts where they are single ones."""

    name: str
    ways: tuple[str, ...]
    parse: AnswerParser
    answers: frozenset[str] = frozenset()


def number_puzzles() -> list[MadePuzzle]:
    """Of whole numbers."""
    out = []
    for low in range(100, 900, 50):
        high = low + 60
        for kind, rest in (("number", None), ("even number", 0), ("odd number", 1)):
            right = range(low + 1, high) if rest is None else [n for n in range(low + 1, high) if n % 2 == rest]
            out.append(_single(f"{kind} between {low} and {high}", right))
    for k, most in ((3, 100), (5, 100), (6, 150), (9, 200), (11, 300), (12, 300)):
        out.append(_single(f"multiple of {k} below {most}", range(k, most, k)))
    for total in range(5, 20):
        out.append(_several(f"two whole numbers that add up to {total}", 2, _adding_up(total)))
    for product in (12, 16, 18, 24, 30, 36, 40):
        out.append(_several(f"two whole numbers whose product is {product}", 2, _multiplying_to(product)))
    return out


def word_puzzles(words: Iterable[str]) -> list[MadePuzzle]:
    """Of English words, which these are."""
    known = sorted(w for w in words if 3 <= len(w) <= 12)
    out = [_word(f"a word that begins with the letter {x}", [w for w in known if w[0] == x]) for x in LETTERS]
    out += [_word(f'a word that begins with "{x}"', [w for w in known if w.startswith(x)]) for x in BEGINNINGS]
    out += [_word(f'a word that ends with "{x}"', [w for w in known if w.endswith(x) and w != x]) for x in ENDINGS]
    out += [_word(f"a word with the letter {x} in it", [w for w in known if x in w]) for x in INSIDE]
    return out + [_word(f"a word of {n} letters", [w for w in known if len(w) == n]) for n in (4, 5, 6, 7)]


def _single(what: str, right: Iterable[int]) -> MadePuzzle:
    numbers = frozenset(right)
    article = "an" if what[0] in "eo" else "a"
    ways = (f"Name {article} {what}.", f"Give me {article} {what}.", f"Pick {article} {what}.")
    parse = Puzzle(ways[0], (), 1, lambda n: n in numbers).parse
    return MadePuzzle(what, ways, parse, frozenset(map(str, numbers)))


def _several(what: str, count: int, right: Callable[..., bool]) -> MadePuzzle:
    ways = (f"Give {what}.", f"Name {what}.", f"Tell me {what}.")
    return MadePuzzle(what, ways, Puzzle(ways[0], (), count, right).parse)


def _adding_up(total: int) -> Callable[..., bool]:
    return lambda *numbers: min(numbers) > 0 and sum(numbers) == total


def _multiplying_to(product: int) -> Callable[..., bool]:
    return lambda *numbers: min(numbers) > 0 and math.prod(numbers) == product


def _word(what: str, right: list[str]) -> MadePuzzle:
    ways = (f"Name {what}.", f"Give me {what}.", f"Tell me {what}.")
    asked = frozenset(part.strip('"').lower() for part in what.split())
    parse = AnswerSet(ways[0], (), {w: (w,) for w in right}, quoted=True, ignore=asked - set(right)).parse
    return MadePuzzle(what, ways, parse, frozenset(right))
