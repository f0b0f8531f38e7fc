"""Checks of answers that are being written: how far they have come, and whether they can still become right.

What a search may look at on the way; the final word is each task's own reader. 0: cannot become right; below 1: so far.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter

from thoughtmix.bench.tasks.countdown import evaluate

_SHAPES = ("{0}{3}{1}{4}{2}", "({0}{3}{1}){4}{2}", "{0}{3}({1}{4}{2})")


@functools.lru_cache(maxsize=256)
def solutions(numbers: tuple[int, ...], target: int) -> tuple[str, ...]:
    """Every expression, without spaces, that makes the target of three numbers."""
    tried = (
        shape.format(*order, *signs)
        for order in set(itertools.permutations(numbers))
        for signs in itertools.product("+-*/", repeat=2)
        for shape in _SHAPES
    )
    return tuple(sorted({e for e in tried if evaluate(e) == target}))


def countdown_reach(text: str, numbers: tuple[int, ...], target: int) -> float:
    """An expression so far, that must be the beginning of one that reaches the target."""
    said, ended = _plain(text)
    ways = solutions(tuple(sorted(numbers)), target)
    if said in ways:
        return 0.95
    if ended or not any(way.startswith(said) for way in ways):
        return 0.0
    return 0.1 + 0.25 * len(re.findall(r"\d+(?=\D)", said))


def countdown_legal(text: str, numbers: tuple[int, ...], target: int) -> float:
    """An expression so far, that must be arithmetic and use given numbers once; where it leads is not looked at."""
    said, ended = _plain(text)
    if not re.fullmatch(r"(\(*\d+\)*[+\-*/])*\(*(\d+\)*)?", said) or said.count(")") > said.count("("):
        return 0.0
    whole = re.findall(r"\d+(?=\D)", said)
    last = re.search(r"\d+$", said)
    left = Counter(map(str, numbers))
    left.subtract(whole)
    if min(left.values()) < 0 or len(left) > len(set(numbers)):
        return 0.0
    rest = [number for number, times in left.items() if times > 0]
    if last and not any(number.startswith(last[0]) for number in rest):
        return 0.0
    used = len(whole) + (last is not None and last[0] in rest)
    if ended:
        return 0.95 if evaluate(said) == target and used == len(numbers) else 0.0
    return 0.1 + 0.25 * len(whole)


def sum_so_far(text: str, count: int, total: int) -> float:
    """Positive whole numbers with commas between that are to be `count` and to sum to `total`."""
    said = text.strip()
    if not re.fullmatch(r"(\d+\s*,\s*)*(\d+)?\.?", said):
        return 0.0
    numbers = [int(v) for v in re.findall(r"\d+", said)]
    if 0 in numbers or len(numbers) > count or sum(numbers) > total:
        return 0.0
    if len(numbers) == count:  # the last digit may be missing still
        if sum(numbers) == total:
            return 0.95
        return 0.0 if said[-1] in ",." or not _grows(numbers[-1], total - sum(numbers[:-1])) else 0.8
    if said.endswith("."):
        return 0.0
    closed = numbers if said.endswith(",") or not numbers else numbers[:-1]
    return 0.0 if sum(closed) + (count - len(closed)) > total else 0.1 + 0.2 * len(closed)


def _grows(number: int, into: int) -> bool:
    return str(into).startswith(str(number)) and into > 0


def _plain(text: str) -> tuple[str, bool]:
    """Without spaces, in plain signs, up to an equals sign or a full stop; and whether there was one."""
    for written, meant in (("×", "*"), ("x", "*"), ("÷", "/"), ("−", "-"), ("–", "-")):
        text = text.replace(written, meant)
    cut = re.split(r"[=.\n]", text, maxsplit=1)
    return re.sub(r"\s", "", cut[0]), len(cut) > 1
