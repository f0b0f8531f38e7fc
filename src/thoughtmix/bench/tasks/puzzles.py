"""Tasks whose answers are numbers, checked by a rule instead of a list: many right answers, none needs a judge."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files

from thoughtmix.bench.tasks.answers import without_echo
from thoughtmix.bench.tasks.items import NO_ANSWER, Item, ParsedAnswer


@dataclass(frozen=True)
class Puzzle:
    """A prompt, and the rule that its answers follow."""

    prompt: str
    paraphrases: tuple[str, ...]
    count: int
    """How many numbers make an answer; 0: a fraction. The order of several does not matter."""
    right: Callable[..., bool]

    def parse(self, text: str) -> ParsedAnswer:
        """The one answer of a text."""
        said = without_echo(text, self.prompt)
        if self.count == 0:
            return self._parse_fraction(said)
        if self.count == 1:
            number = answered_number(said, self.prompt)
            return NO_ANSWER if number is None else ParsedAnswer(str(number), bool(self.right(number)))
        found = first_list(said, self.count)
        if found is None:
            return NO_ANSWER
        return ParsedAnswer(" ".join(map(str, sorted(found))), bool(self.right(*found)))

    def _parse_fraction(self, said: str) -> ParsedAnswer:
        named = set(re.findall(r"\d+/\d+", self.prompt))
        for numerator, denominator in re.findall(r"(?<![\w.])(\d{1,9})\s*/\s*(\d{1,9})(?!\w)", with_digits(said)):
            if f"{numerator}/{denominator}" in named or int(denominator) == 0:
                continue
            value = Fraction(int(numerator), int(denominator))
            return ParsedAnswer(str(value), bool(self.right(value)))
        return NO_ANSWER


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


_RULES: Mapping[str, Callable[..., bool]] = {
    "primes": lambda n: n < 100 and _prime(n),
    "squares": lambda n: 1 <= n <= 1000 and math.isqrt(n) ** 2 == n,
    "multiples_of_seven": lambda n: 0 < n < 200 and n % 7 == 0,
    "powers_of_two": lambda n: 2 < n < 5000 and n & (n - 1) == 0,
    "digits_sum": lambda n: 100 <= n <= 999 and sum(map(int, str(n))) == 10,
    "sum_to_twenty": lambda *n: min(n) > 0 and sum(n) == 20,
    "product_sixty": lambda *n: min(n) > 0 and math.prod(n) == 60,
    "two_primes": lambda a, b: abs(a - b) == 6 and _prime(a) and _prime(b),
    "even_four": lambda *n: len(set(n)) == 4 and all(v % 2 == 0 for v in n) and sum(n) == 40,
    "fraction_between": lambda f: Fraction(1, 3) < f < Fraction(1, 2),
}
PUZZLES: Mapping[str, Puzzle] = {
    name: Puzzle(task["prompt"], tuple(task["paraphrases"]), task["count"], _RULES[name])
    for name, task in tomllib.loads(files(__package__).joinpath("puzzles.toml").read_text(encoding="utf-8")).items()
}


def puzzle_tasks() -> list[Item]:
    """Every puzzle as an item of kind coverage."""
    return [Item(f"puzzle/{name}", "coverage", p.prompt, p.paraphrases) for name, p in PUZZLES.items()]


def sum_so_far(text: str, count: int, total: int) -> float:
    """How far a list of `count` positive whole numbers with a given sum has come, with commas between.

    A check for searches: 0 when it cannot become right, else more the further it has come, and always below 1.
    """
    said = text.strip()
    if not re.fullmatch(r"(\d+\s*,\s*)*(\d+)?\.?", said):
        return 0.0
    numbers = [int(v) for v in re.findall(r"\d+", said)]
    if 0 in numbers or len(numbers) > count or sum(numbers) > total:
        return 0.0
    if len(numbers) == count:
        if sum(numbers) == total:
            return 0.95
        missing = total - sum(numbers[:-1])
        grows = missing > 0 and str(missing).startswith(str(numbers[-1]))  # the last digit may be missing still
        return 0.8 if grows and said[-1] not in ",." else 0.0
    if said.endswith("."):
        return 0.0
    closed = numbers if said.endswith(",") or not numbers else numbers[:-1]
    return 0.0 if sum(closed) + (count - len(closed)) > total else 0.1 + 0.2 * len(closed)


# Reading numbers out of text: digits with signs and commas, and words up to a hundred.

_ONES = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBER_WORDS = {
    **{word: i for i, word in enumerate(_ONES)},
    **{word: 20 + 10 * i for i, word in enumerate(_TENS)},
    **{f"{ten}-{one}": 20 + 10 * i + j for i, ten in enumerate(_TENS) for j, one in enumerate(_ONES[1:10], 1)},
    "hundred": 100,
}
_LIST_MARK = re.compile(r"^\s*\d{1,2}[.)]\s+(?=\S)", re.MULTILINE)
_WORD = re.compile(r"\b(?:one |a )?(" + "|".join(sorted(NUMBER_WORDS, key=len, reverse=True)) + r")\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,/-])[-−]?\d+(?:,\d{3})*(?![\w/]|[.,]\d)")
_CUE = re.compile(
    r"\b(?:answer|number|one|pick|choose|choice)\b[^.\n\d]{0,25}?(?:\bis\b|:|=)|\b(?:pick|choose)\b", re.IGNORECASE
)


def with_digits(text: str, words: bool = True) -> str:
    """The text with number words as digits ("twenty-one" -> "21") and the marks of numbered lists left out."""
    out = _LIST_MARK.sub("", text)
    if words:
        joined = re.sub(rf"\b({'|'.join(_TENS)}) ({'|'.join(_ONES[1:10])})\b", r"\1-\2", out, flags=re.IGNORECASE)
        out = _WORD.sub(lambda m: str(NUMBER_WORDS[m[1].lower()]), joined)
    return out


def whole_numbers(text: str) -> list[int]:
    """Every whole number, in order; parts of decimals, fractions and words are none."""
    return [int(m[0].replace(",", "").replace("−", "-")) for m in _NUMBER.finditer(text)]


def answered_number(text: str, prompt: str) -> int | None:
    """The number that a text answers: the first after "the number is", else the first that the prompt does not name."""
    asked = set(whole_numbers(with_digits(prompt)))
    said = with_digits(text)
    for cue in _CUE.finditer(said):
        after = [v for v in whole_numbers(said[cue.end() :]) if v not in asked]
        if after:
            return after[0]
    # Number words are often no answers ("one of the primes"): without a cue digits come first.
    for found in (whole_numbers(with_digits(text, words=False)), whole_numbers(said)):
        left = [v for v in found if v not in asked]
        if left:
            return left[0]
    return None


def first_list(text: str, count: int) -> tuple[int, ...] | None:
    """The first list of exactly `count` whole numbers: between commas, signs (+ x), "and" or line ends."""
    number, between = r"[-−]?\d+", r"\s*(?:,?\s*\band\b|[,;+&×*x]|\n|\s)\s*"
    for m in re.finditer(rf"(?<![\w.]){number}(?:{between}{number})*(?![\w]|\.\d)", with_digits(text)):
        found = [int(v.replace("−", "-")) for v in re.findall(number, m[0])]
        if len(found) == count:
            return tuple(found)
    return None
