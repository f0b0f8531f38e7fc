"""Countdown arithmetic: reach a target with given numbers. Checked by an exact, safe evaluator; scored by pass@k."""

from __future__ import annotations

import ast
import functools
import itertools
import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from thoughtmix.bench.tasks.items import NO_ANSWER, Item, ParsedAnswer

_SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "\\times": "*", "\\div": "/", "[": "(", "]": ")"}
_EXPRESSION = re.compile(r"[\d(][\d\s+\-*/()]*[\d)]")
_CUE = re.compile(r"\b(?:answer|solution|expression|result)\b[^\n:=]{0,20}(?::|\bis\b)", re.IGNORECASE)
_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SHAPES = ("{0}{3}{1}{4}{2}", "({0}{3}{1}){4}{2}", "{0}{3}({1}{4}{2})")
_LONGEST = 200  # characters; a right expression of four numbers has under 40


def problems(count: int, seed: int = 0) -> list[Item]:
    """`count` different problems with 3 numbers of 1 to 12 and a target of 10 to 60. Each has a solution.

    The same seed gives the same problems, and a longer list begins with the shorter one.
    """
    rng = np.random.default_rng([seed, 4321])
    out: dict[tuple[tuple[int, ...], int], Item] = {}
    while len(out) < count:
        numbers = [int(v) for v in rng.integers(1, 13, 3)]
        target = Fraction(numbers[0])
        for number in numbers[1:]:
            target = (target + number, target - number, target * number)[int(rng.integers(3))]
        key = (tuple(sorted(numbers)), int(target))
        if 10 <= target <= 60 and key not in out:
            out[key] = _item(sorted(numbers), int(target))
    return list(out.values())


def _item(numbers: list[int], target: int) -> Item:
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    rules = 'You may add, subtract, multiply and divide. End with the expression alone, after "Answer:".'
    ways = (
        f"Make {target} from the numbers {listed}, each used exactly once.",
        f"Use each of the numbers {listed} exactly once to reach {target}.",
        f"Write an arithmetic expression that equals {target} and uses {listed} once each.",
        f"Combine {listed}, each exactly once, so that the result is {target}.",
    )
    name = f"countdown/{target}-from-{'-'.join(map(str, numbers))}"
    data = {"numbers": numbers, "target": target}
    return Item(name, "reasoning", f"{ways[0]} {rules}", tuple(f"{way} {rules}" for way in ways[1:]), data)


def parse(text: str, numbers: Sequence[int], target: int) -> ParsedAnswer:
    """The expression that a text ends with, and whether it uses each number once and equals the target.

    The last one after "answer:" counts, else the last of the text: one claim a text, however many it tries.
    """
    cues = list(_CUE.finditer(text))
    said = text[cues[-1].end() :] if cues and _expressions(text[cues[-1].end() :]) else text
    found = _expressions(said)
    if not found:
        return NO_ANSWER
    expression = re.sub(r"\s", "", found[0] if said is not text else found[-1])
    used = Counter(int(v) for v in re.findall(r"\d+", expression))
    return ParsedAnswer(expression, used == Counter(numbers) and evaluate(expression) == target)


def _expressions(text: str) -> list[str]:
    """Substrings that are arithmetic with at least one operator between numbers."""
    for written, meant in _SIGNS.items():
        text = text.replace(written, meant)
    text = re.sub(r"(?<=[\d)])\s*x\s*(?=[\d(])", "*", text)
    found = [m[0].strip() for m in _EXPRESSION.finditer(text) if len(m[0]) <= _LONGEST]
    return [e for e in found if re.search(r"\d\s*\)*\s*[+\-*/]\s*\(*\s*\d", e) and evaluate(e) is not None]


def evaluate(expression: str) -> Fraction | None:
    """The exact value of +, -, *, / and parentheses over whole numbers.

    None when it is no such expression or divides by zero. The text is parsed and never executed.
    """
    if (
        len(expression) > _LONGEST
        or not re.fullmatch(r"[\d\s+\-*/()]+", expression)
        or re.search(r"\d{13}", expression)
    ):
        return None
    plain = re.sub(r"\d+", lambda m: str(int(m[0])), " ".join(expression.split()))  # Python refuses leading zeros
    try:
        return _value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            return -_value(operand) if isinstance(sign, ast.USub) else _value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError("something else than arithmetic")


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


def reachable_so_far(text: str, numbers: tuple[int, ...], target: int) -> float:
    """How far an expression has come that must be the beginning of one that reaches the target.

    A check for searches, as is `legal_so_far`: 0 when the text cannot become right, else more the further it has come,
    and always below 1, since the final word is `parse`'s.
    """
    said, ended = _plain(text)
    ways = solutions(tuple(sorted(numbers)), target)
    if said in ways:
        return 0.95
    if ended or not any(way.startswith(said) for way in ways):
        return 0.0
    return 0.1 + 0.25 * len(re.findall(r"\d+(?=\D)", said))


def legal_so_far(text: str, numbers: tuple[int, ...], target: int) -> float:
    """The same of an expression that must be arithmetic and use given numbers once; where it leads is not looked at."""
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


def _plain(text: str) -> tuple[str, bool]:
    """Without spaces, in plain signs, up to an equals sign or a full stop; and whether there was one."""
    for written, meant in (("×", "*"), ("x", "*"), ("÷", "/"), ("−", "-"), ("–", "-")):
        text = text.replace(written, meant)
    cut = re.split(r"[=.\n]", text, maxsplit=1)
    return re.sub(r"\s", "", cut[0]), len(cut) > 1
