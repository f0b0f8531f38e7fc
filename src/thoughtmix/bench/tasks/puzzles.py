"""Tasks whose answers are numbers, checked by a rule instead of a list: many right answers, none needs a judge."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from thoughtmix.bench.tasks.item import UNREAD, Item, Reading
from thoughtmix.bench.tasks.numbers import digits, one_number, run_of
from thoughtmix.bench.tasks.parse import without_echo


@dataclass(frozen=True)
class Puzzle:
    """count: how many numbers make an answer; 0: a fraction. The order of several does not matter."""

    prompt: str
    paraphrases: tuple[str, ...]
    count: int
    right: Callable[..., bool]

    def read(self, text: str) -> Reading:
        said = without_echo(text, self.prompt)
        if self.count == 0:
            return self._fraction(said)
        if self.count == 1:
            number = one_number(said, self.prompt)
            return UNREAD if number is None else Reading(str(number), bool(self.right(number)))
        found = run_of(said, self.count)
        if found is None:
            return UNREAD
        return Reading(" ".join(map(str, sorted(found))), bool(self.right(*found)))

    def _fraction(self, said: str) -> Reading:
        named = set(re.findall(r"\d+/\d+", self.prompt))
        for numerator, denominator in re.findall(r"(?<![\w.])(\d{1,9})\s*/\s*(\d{1,9})(?!\w)", digits(said)):
            if f"{numerator}/{denominator}" in named or int(denominator) == 0:
                continue
            value = Fraction(int(numerator), int(denominator))
            return Reading(str(value), bool(self.right(value)))
        return UNREAD


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


PUZZLES = {
    "primes": Puzzle(
        "Name a prime number below 100.",
        ("Tell me one prime number that is less than 100.", "Which prime below 100 comes to mind? Name one.",
         "Pick any prime number smaller than 100."),
        1, lambda n: n < 100 and _prime(n),
    ),
    "squares": Puzzle(
        "Name a perfect square between 1 and 1000.",
        ("Tell me one square number from 1 to 1000.", "Which perfect square up to 1000 comes to mind? Name one.",
         "Pick any perfect square from 1 to 1000."),
        1, lambda n: 1 <= n <= 1000 and math.isqrt(n) ** 2 == n,
    ),
    "multiples_of_seven": Puzzle(
        "Name a multiple of 7 below 200.",
        ("Tell me one multiple of 7 that is less than 200.", "Which multiple of 7 below 200 comes to mind? Name one.",
         "Pick any multiple of 7 smaller than 200."),
        1, lambda n: 0 < n < 200 and n % 7 == 0,
    ),
    "powers_of_two": Puzzle(
        "Name a power of two greater than 2 and less than 5000.",
        ("Tell me one power of two between 2 and 5000.", "Which power of two below 5000 comes to mind? Name one.",
         "Pick any power of two from 4 to 5000."),
        1, lambda n: 2 < n < 5000 and n & (n - 1) == 0,
    ),
    "digits_sum": Puzzle(
        "Name a three-digit number whose digits sum to 10.",
        ("Tell me one number of three digits that add up to 10.",
         "Which three-digit number has a digit sum of 10? Name one.",
         "Pick any three-digit number with digits that sum to 10."),
        1, lambda n: 100 <= n <= 999 and sum(map(int, str(n))) == 10,
    ),
    "sum_to_twenty": Puzzle(
        "Give three positive whole numbers that sum to 20.",
        ("Name three positive integers whose sum is 20.",
         "Which three positive whole numbers add up to 20? Give one answer.",
         "Write three positive whole numbers with a sum of 20."),
        3, lambda *n: min(n) > 0 and sum(n) == 20,
    ),
    "product_sixty": Puzzle(
        "Give three positive whole numbers whose product is 60.",
        ("Name three positive integers that multiply to 60.",
         "Which three positive whole numbers have the product 60? Give one answer.",
         "Write three positive whole numbers with a product of 60."),
        3, lambda *n: min(n) > 0 and math.prod(n) == 60,
    ),
    "two_primes": Puzzle(
        "Give two prime numbers that differ by 6.",
        ("Name two primes with a difference of 6.", "Which two prime numbers lie 6 apart? Give one answer.",
         "Write two prime numbers whose difference is 6."),
        2, lambda a, b: abs(a - b) == 6 and _prime(a) and _prime(b),
    ),
    "even_four": Puzzle(
        "Give four different even numbers that sum to 40.",
        ("Name four different even numbers whose sum is 40.",
         "Which four different even numbers add up to 40? Give one answer.",
         "Write four different even numbers with a sum of 40."),
        4, lambda *n: len(set(n)) == 4 and all(v % 2 == 0 for v in n) and sum(n) == 40,
    ),
    "fraction_between": Puzzle(
        "Give a fraction that lies between 1/3 and 1/2.",
        ("Name one fraction greater than 1/3 and less than 1/2.",
         "Which fraction is between 1/3 and 1/2? Give one answer.",
         "Write any fraction between 1/3 and 1/2."),
        0, lambda f: Fraction(1, 3) < f < Fraction(1, 2),
    ),
}  # fmt: skip


def puzzles() -> list[Item]:
    """Every puzzle as an item of kind coverage."""
    return [Item(f"puzzle/{name}", "coverage", p.prompt, p.paraphrases) for name, p in PUZZLES.items()]
