"""Of a question with one right answer: which one most texts give, told by their words, without a model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_WORD = re.compile(r"[^\W_]+(?:[.,'’-][^\W_]+)*")
_OPENS = re.compile(r"(?:^|[.!?:]\s+|\n)\W*(\w+)")  # the first word of a sentence, whose capital says nothing
_UNSAID = """
a about after all also am an and any are as at be because been but by can could did do does for from had has have he her
his how i i'm if in into is it it's its just let's like many may me more most my not of on one only or other our she
should sir so some such than that the their them then there these they this those to us very was we were what when
where which who whom why will with would you your
"""
_SMALL = frozenset(_UNSAID.split())
_COUNTS = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBERS = {word: str(i) for i, word in enumerate(_COUNTS.split()) if i != 1}  # "one" is said of much
_COUNTED = re.compile(
    r"\bhow (?:many|much|old|tall|far|long|high|big|deep)\b|\bwhen\b|\bwhat (?:year|time|number)\b|\d", re.IGNORECASE
)
"""Asks for a number: what it counts, or its unit, is no answer."""
_PARTICLES = frozenset({"da", "de", "di", "la", "of", "van", "von"})
_SHORT = 8  # words up to which a text is all answer, so that any of its words may be it


def one_answer(prompt: str, texts: Sequence[str]) -> dict[str, Any]:
    """The answer that most texts give.

    It is what stands in most of them and not in the prompt: a name, a number, a yes or a no; of texts of up to eight
    words any word that says something.

    Args:
        prompt: The question.
        texts: What answers it.

    Returns:
        answer: As it is written; None where nothing stands in more than half of them. count: how many say it. of: how
        many texts there are.
    """
    answer, which = most_say(prompt, texts)
    return {"answer": answer, "count": sum(which), "of": len(texts)}


def most_say(prompt: str, texts: Sequence[str]) -> tuple[str | None, list[bool]]:
    """The answer of `one_answer`, and which texts give it."""
    said = [_WORD.findall(text) for text in texts]
    asked = {_plain(word) for word in _WORD.findall(prompt)} | _SMALL
    telling = [dict.fromkeys(_telling(text, words)) for text, words in zip(texts, said, strict=True)]
    if _COUNTED.search(prompt):
        telling = [dict.fromkeys(word for word in words if word[0].isdigit()) for words in telling]
    counts = Counter(word for words in telling for word in words if word not in asked)
    found, count = counts.most_common(1)[0] if counts else ("", 0)
    if 2 * count <= len(texts):
        return None, [False] * len(texts)
    return _as_name(found, said, asked), [found in words for words in telling]


def _plain(word: str) -> str:
    flat = re.sub(r"['’]s$", "", word.casefold())
    return _NUMBERS.get(flat, flat)


def _telling(text: str, words: Sequence[str]) -> list[str]:
    """The plain words of a text that may be its answer, in its order."""
    if len(words) <= _SHORT:
        return [_plain(word) for word in words]
    opens = {match[1] for match in _OPENS.finditer(text)}
    names = {word for word in words if word[0].isupper() and (word not in opens or words.count(word) > 1)}
    plain = [_plain(word) for word in words]
    return [p for p, w in zip(plain, words, strict=True) if w in names or p[0].isdigit() or p in {"yes", "no"}]


def _as_name(plain: str, said: Sequence[Sequence[str]], asked: set[str]) -> str:
    """The name that a plain word is, or most often stands in, as it is written."""
    names: Counter[str] = Counter()
    for words in said:
        run: list[str] = []
        for word in [*words, ""]:
            named = word[:1].isupper() and _plain(word) not in asked
            if named or _plain(word) == plain or (run and word in _PARTICLES):
                run.append(word)
                continue
            while run and run[-1] in _PARTICLES:
                run.pop()
            if plain in map(_plain, run):
                names[" ".join(run)] += 1
            run = []
    return names.most_common(1)[0][0]
