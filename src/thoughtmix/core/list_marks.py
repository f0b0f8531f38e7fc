"""Marks at the beginning of a line that begin an item of a list: "1.", "**2)**", "### 3.", "-", "Answer 4:"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FENCE = re.compile(r"\s*(?:```|~~~)")
_NUMBER = re.compile(
    r"""(?P<hash>\#{1,6}\s+)?(?P<bold>\*\*|__)?
    (?:(?P<label>[^\W\d_]{2,12})\s*\#?\s*|\#)?
    (?:(?P<open>[(\[（【])\s*)?(?P<number>\d{1,3}|[一二三四五六七八九十])(?P<delimiter>[.):\]．。）】：、]|\s*[-–—](?=\s)|(?=\*\*)|$)
    (?P<shut>\*\*|__)?(?P<rest>.*)""",
    re.VERBOSE,
)
_CIRCLED = re.compile(r"(?P<number>[①-⑳]|\d️?⃣)\s*(?P<rest>.*)")
_LETTER = re.compile(r"(?:\*\*)?(?:\((?P<a>[a-zA-Z])\)|(?P<b>[a-zA-Z])[.)])(?:\*\*)?\s+(?P<rest>.*)")
_BULLET = re.compile(r"(?:[-*+–—](?:\s+|$)|[•·‣▪◦●・➤➢✔✅]\s*)(?P<rest>.*)")
_HEADING = re.compile(r"#{1,6}\s+(?P<rest>.*)")
_BOLD = re.compile(r"(?P<rest>(?P<b>\*\*|__)(?=\S)[^*_]+(?P=b)\s*(?:$|[:：–—-].*))|(?P<colon>\*\*[^*]+[:：]\*\*.*)")


@dataclass(frozen=True, slots=True)
class Mark:
    """The beginning of what may be an item."""

    line: int
    indent: int
    kind: str
    """number (heading-number and bold-number where the whole line is one), letter, bullet, heading, bold."""
    number: int | None
    rest: str
    """The line after the mark."""


def line_marks(lines: Sequence[str]) -> list[Mark]:
    """All marks at beginnings of lines, in order, but none in code fences."""
    out, fenced = [], False
    for i, line in enumerate(lines):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            mark = _mark(i, line)
            if mark is not None:
                out.append(mark)
    letters = [m.number for m in out if m.kind == "letter"]
    if letters[:2] != [1, 2]:  # "A. Einstein" is a name
        out = [m for m in out if m.kind != "letter"]
    return out


def is_sequence(numbers: Sequence[int | None]) -> bool:
    """Whether they count on one by one, count down to 1, or are all one (as Markdown allows)."""
    found = [n for n in numbers if n is not None]
    if len(found) != len(numbers) or not found:
        return False
    steps = {b - a for a, b in pairwise(found)}
    return steps <= {1} or steps == {0} or (steps == {-1} and found[-1] == 1)


def numeric(written: str) -> int:
    """The number of a mark, in any script: "２", "②", "二", "2️⃣"."""
    return int("".join(str(int(unicodedata.numeric(c))) for c in written if unicodedata.numeric(c, None) is not None))


def _mark(i: int, line: str) -> Mark | None:
    body = line.strip()
    indent = len(line) - len(line.lstrip())
    if re.fullmatch(r"([-*_])(?:\s*\1){2,}", body):  # a rule between items
        return None
    found = _CIRCLED.match(body)
    if found:
        return Mark(i, indent, "number", numeric(found["number"]), found["rest"])
    found = _NUMBER.match(body)
    if found and _is_number(found):
        whole = found["bold"] and not found["shut"]  # "**1. Paris**", not "**1.** Paris"
        kind = "heading-number" if found["hash"] else "bold-number" if whole else "number"
        return Mark(
            i, indent, kind, numeric(found["number"]), (found["bold"] if whole else "") + found["rest"].lstrip()
        )
    found = _LETTER.match(body)
    if found:
        letter = (found["a"] or found["b"]).lower()
        return Mark(i, indent, "letter", ord(letter) - ord("a") + 1, found["rest"])
    for kind, pattern in (("heading", _HEADING), ("bold", _BOLD), ("bullet", _BULLET)):
        found = pattern.match(body)
        if found:
            rest = found["rest"] if found["rest"] is not None else found["colon"]
            return Mark(i, indent, kind, None, rest)
    return None


def _is_number(found: re.Match[str]) -> bool:
    """Not "1.5 litres", "10:30", "12 - 4 = 8" or "Route 66 is long"."""
    delimiter, rest = found["delimiter"].strip(), found["rest"]
    if rest[:1].isdigit() and delimiter in {".", ":", "："}:
        return False
    if not found["number"].isdigit() and delimiter not in {"、", "．", "：", ".", ":"}:
        return False
    if found["label"]:
        return not found["open"] and delimiter in {":", "：", ".", ")", "-", "–", "—", ""}
    return delimiter not in {"-", "–", "—", ""}
