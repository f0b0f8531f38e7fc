"""Writing under constraints that a program checks: so many words, a first letter, a word to contain."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from thoughtmix.bench.tasks.items import NO_ANSWER, Item, ParsedAnswer

NOUNS = (
    "river",
    "garden",
    "window",
    "teacher",
    "music",
    "bread",
    "winter",
    "bridge",
    "letter",
    "horse",
    "market",
    "doctor",
    "mountain",
    "kitchen",
    "island",
    "summer",
    "paper",
    "train",
    "forest",
    "story",
)
LETTERS = "ABDEFHILMOSTW"
_WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_SENTENCE = re.compile(r"[^.!?\n]*[.!?]?")


@dataclass(frozen=True, slots=True)
class Constraint:
    """One sentence of exactly `words` words that begins with `letter` and contains `noun`."""

    words: int
    letter: str
    noun: str

    @property
    def prompt(self) -> str:
        return (
            f"Write one sentence of exactly {self.words} words that begins with the letter {self.letter} and contains "
            f'the word "{self.noun}".'
        )

    def parse(self, text: str) -> ParsedAnswer:
        """The first sentence of a text, and whether it is as asked. A sentence ends with a full stop, or as such."""
        said = text.strip().strip('"“”*').strip()
        sentence = (_SENTENCE.match(said) or [""])[0]
        words = _WORD.findall(sentence)
        if not words:
            return NO_ANSWER
        right = (
            len(words) == self.words
            and sentence[0] == self.letter
            and self.noun in (w.lower() for w in words)
            and sentence[-1:] in ".!?"
            and not re.search(r"\d", sentence)
        )
        return ParsedAnswer(" ".join(words).lower(), right)

    def so_far(self, text: str) -> float:
        """How far a sentence that is being written has come, above 0 and below 1; 0 when it cannot become right."""
        said = text.lstrip()
        if not said:
            return 0.05
        if re.search(r"[.!?\n]", said.rstrip()):
            return 0.95 if self.parse(said).valid else 0.0
        words = _WORD.findall(said)
        whole = words if not said[-1].isalpha() else words[:-1]  # the last may still grow
        if said[0] != self.letter or len(words) > self.words or re.search(r"\d", said):
            return 0.0
        has = self.noun in (w.lower() for w in whole) or (bool(words) and words[-1].lower() == self.noun)
        if not has and len(words) == self.words:
            last = words[-1].lower() if len(whole) < len(words) else ""
            if not last or not self.noun.startswith(last):
                return 0.0
        return 0.1 + 0.4 * len(whole) / self.words + 0.4 * has


def constraints(count: int, seed: int = 0) -> list[Constraint]:
    """`count` different ones; the same seed gives the same, and a longer list begins with the shorter one."""
    rng = np.random.default_rng([seed, 8642])
    out: dict[Constraint, None] = {}
    while len(out) < count:
        words, letter, noun = rng.integers(5, 10), rng.integers(len(LETTERS)), rng.integers(len(NOUNS))
        out[Constraint(int(words), LETTERS[letter], NOUNS[noun])] = None
    return list(out)


def problems(count: int, seed: int = 0) -> list[Item]:
    """Items of kind coverage: many answers are right."""
    return [_item(c) for c in constraints(count, seed)]


def _item(c: Constraint) -> Item:
    ways = (
        f'In exactly {c.words} words, write a sentence whose first letter is {c.letter} and that has "{c.noun}" in it.',
        f'Give me a sentence: {c.words} words, no more, no fewer, first letter {c.letter}, with the word "{c.noun}".',
        f'Use the word "{c.noun}" in a sentence of exactly {c.words} words that starts with {c.letter}.',
    )
    data = {"words": c.words, "letter": c.letter, "noun": c.noun}
    return Item(f"writing/{c.words}-{c.letter}-{c.noun}", "coverage", c.prompt, ways, data)
