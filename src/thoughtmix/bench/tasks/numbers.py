"""Reading numbers out of text: digits with signs and commas, and words up to a hundred."""

from __future__ import annotations

import re

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = {
    **{word: i for i, word in enumerate(_ONES)},
    **{word: 20 + 10 * i for i, word in enumerate(_TENS)},
    **{f"{ten}-{one}": 20 + 10 * i + j for i, ten in enumerate(_TENS) for j, one in enumerate(_ONES[1:10], 1)},
    "hundred": 100,
}  # fmt: skip
_LIST_MARK = re.compile(r"^\s*\d{1,2}[.)]\s+(?=\S)", re.MULTILINE)
_WORD = re.compile(r"\b(?:one |a )?(" + "|".join(sorted(WORDS, key=len, reverse=True)) + r")\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,/-])[-−]?\d+(?:,\d{3})*(?![\w/]|[.,]\d)")
_CUE = re.compile(
    r"\b(?:answer|number|one|pick|choose|choice)\b[^.\n\d]{0,25}?(?:\bis\b|:|=)|\b(?:pick|choose)\b", re.IGNORECASE
)


def digits(text: str, words: bool = True) -> str:
    """The text with number words as digits ("twenty-one" -> "21") and the marks of numbered lists left out."""
    out = _LIST_MARK.sub("", text)
    if words:
        joined = re.sub(rf"\b({'|'.join(_TENS)}) ({'|'.join(_ONES[1:10])})\b", r"\1-\2", out, flags=re.IGNORECASE)
        out = _WORD.sub(lambda m: str(WORDS[m[1].lower()]), joined)
    return out


def whole_numbers(text: str) -> list[int]:
    """Every whole number, in order; parts of decimals, fractions and words are none."""
    return [int(m[0].replace(",", "").replace("−", "-")) for m in _NUMBER.finditer(text)]


def one_number(text: str, prompt: str) -> int | None:
    """The number that a text answers: the first after "the number is", else the first that the prompt does not name."""
    asked = set(whole_numbers(digits(prompt)))
    said = digits(text)
    for cue in _CUE.finditer(said):
        after = [v for v in whole_numbers(said[cue.end() :]) if v not in asked]
        if after:
            return after[0]
    # Number words are often no answers ("one of the primes"): without a cue digits come first.
    for found in (whole_numbers(digits(text, words=False)), whole_numbers(said)):
        left = [v for v in found if v not in asked]
        if left:
            return left[0]
    return None


def run_of(text: str, count: int) -> tuple[int, ...] | None:
    """The first list of exactly `count` whole numbers: between commas, signs (+ x), "and" or line ends."""
    number, between = r"[-−]?\d+", r"\s*(?:,?\s*\band\b|[,;+&×*x]|\n|\s)\s*"
    for m in re.finditer(rf"(?<![\w.]){number}(?:{between}{number})*(?![\w]|\.\d)", digits(text)):
        found = [int(v.replace("−", "-")) for v in re.findall(number, m[0])]
        if len(found) == count:
            return tuple(found)
    return None
