"""Quality that needs no judge: whether a text is all there, keeps from repeating itself, and can be read as asked.

None of these says that an answer is true, good or well written; the report of a bench without a judge says so, too.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import regex

from thoughtmix.core.selection import LOOPS, repetition
from thoughtmix.metrics.text import plain_text

if TYPE_CHECKING:
    from thoughtmix.core.types import Thought

_END = regex.compile(r"(?:\p{Sentence_Terminal}|…|```|[\p{So}\p{Emoji_Presentation}])[\p{Pe}\p{Pf}\p{Pi}\"'*_`\s]*\Z")
_MARK = regex.compile(r"(?:^|\n)\s*\d{1,3}[.)]\s*\Z")  # the number of an item that never came
_FENCE = regex.compile(r"```[\w+-]*[ \t]*\n(.*?)```", regex.DOTALL)


def is_complete(text: str, finish: str = "length") -> bool:
    """Whether a text is all that it was going to be: the model ended it itself (finish is stop), or it ends as a
    sentence does, in any script, closing quotes and brackets aside. A blank text is not.

    Fails on a text that was cut just after a full stop, which counts as whole, and on one that the model ends in
    mid-sentence.
    """
    if not text.strip():
        return False
    if finish == "stop":
        return True
    said = plain_text(text)
    return _END.search(said) is not None and _MARK.search(said) is None


def complete(thoughts: Sequence[Thought]) -> float:
    """Share of thoughts that are complete (`is_complete`). 0 to 1, higher is better. Fails as `is_complete` does."""
    return sum(is_complete(t.text, t.finish) for t in thoughts) / len(thoughts)


def mean_repetition(texts: Sequence[str]) -> float:
    """Mean share of a text's word pairs that stood in it before. 0 to 1, LOWER is better; prose has up to 0.1, a loop
    nearly 1. Fails on verse and lists that repeat on purpose."""
    return sum(repetition(text) for text in texts) / len(texts)


def _json(text: str) -> None:
    json.loads(text)


def _python(text: str) -> None:
    ast.parse(text)


FORMATS: dict[str, Callable[[str], None]] = {"json": _json, "python": _python}
"""Forms that a prompt may ask for, with what refuses a text of another."""


def parses(text: str, form: str) -> bool:
    """Whether a text, or the first code fence in it, is of a form in `FORMATS`. A blank text is of none."""
    fenced = _FENCE.search(text)
    body = (fenced[1] if fenced else text).strip()
    try:
        FORMATS[form](body)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return bool(body)


def is_sound(text: str, finish: str, form: str | None = None) -> bool:
    """Complete, no loop (`repetition` below 0.4), and of the form that was asked for, if one was."""
    return is_complete(text, finish) and repetition(text) < LOOPS and (form is None or parses(text, form))
