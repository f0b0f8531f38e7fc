"""The answers of a generated list, each with its own tokens, likelihood and stated probability where they are known."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from thoughtmix.core.lists import list_items
from thoughtmix.core.types import FinishReason
from thoughtmix.engine.engine import Engine, SequenceOutput, TokenEngine

_PROBABILITY = re.compile(r"probability\W{0,12}?(\d*\.?\d+(?:e-?\d+)?)\s*(%?)", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|a|an|le|la|les|un|une|der|die|das|ein|eine|el|los|las|una)\s+(?=\S)")
_EDGES = string.whitespace + ".,:;!?\"'`()[]{}<>*_~-“”«»„‘’–—…。，、！？：；"


@dataclass(frozen=True, slots=True)
class ListedAnswer:
    """One answer of a list."""

    text: str
    position: int
    """In its list, from 0."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Of each token, after everything that stands before it in the list."""
    probability: float | None = None
    """What the model says that the answer's probability is."""
    finish: FinishReason = "stop"
    """length: the end of the tokens cut it."""


def listed_answers(engine: Engine, output: SequenceOutput, opening: str = "") -> list[ListedAnswer]:
    """The answers of a list.

    Args:
        engine: Whose tokenizer tells which tokens are whose.
        output: The generated text.
        opening: What the prompt began the list with ("1.").
    """
    text = opening + output.text
    items = [_without_number(item, i) for i, item in enumerate(list_items(text), 1)]
    spans = _spans(text, items)
    stated = _probabilities(text, spans)
    ends = _token_ends(engine, output)
    out = []
    for i, (item, span) in enumerate(zip(items, spans, strict=True)):
        ids, logprobs = _tokens(output, ends, span, len(opening))
        cut = output.finish != "stop" and i == len(items) - 1 and text.rstrip().endswith(item)
        out.append(ListedAnswer(item, i, ids, logprobs, stated[i], output.finish if cut else "stop"))
    return out


def _without_number(item: str, number: int) -> str:
    """An item whose number was written twice ("1. 1: Fig")."""
    return re.sub(rf"^{number}\s?[.:)]\s+(?=\S)", "", item)


def plain_answer(text: str) -> str:
    """What two ways to write one answer have in common: no case, no leading article, no punctuation around it, single
    spaces, "and" in full."""
    flat = " ".join(text.casefold().replace(" & ", " and ").split()).strip(_EDGES)
    return _ARTICLE.sub("", flat, count=1) if _ARTICLE.match(flat) else flat


_ALONE = """
adams arms athens customs edwards glasses goods jones laos manners mars means news peters roberts spirits stephens wales
williams woods works
"""
_OTHER = frozenset(_ALONE.split())
"""Words in -s that mean something else than what stands before the s."""
_IRREGULAR = {"mice": "mouse", "geese": "goose", "children": "child", "feet": "foot", "teeth": "tooth"}
_TAIL = re.compile(r"[\"”]? (?:\(|[–—-] |by (?=\S+ \S))|: ")  # what a name is explained behind
_NAME = 10  # words of a name with what explains it, at most
_ACCENTED = 5  # letters from which on a word without its accents is still that word
_PEOPLE = """
actor actress artist astronaut author composer explorer inventor king leader mathematician musician painter person
philosopher physicist player poet politician president queen scientist singer who writer
"""
_PERSONS = frozenset(word + ending for word in _PEOPLE.split() for ending in ("", "s"))
_STEM = 3  # letters of a singular, at least: of a chemist's "C" and "Cs" neither is one


def same_name(a: str, b: str, prompt: str = "") -> bool:
    """Whether two plain answers name one thing.

    Word for word they are the same, but for singular and plural ("blue jay", "blue jays"; English, and other languages
    in so far as their plural is an -s), for accents that one of them lacks, for words of the prompt (of a river: "river
    rhine", "rhine"), for what only one of them adds ("hamlet" by william shakespeare), and for what stands before the
    last name of a person.
    """
    if a == b:
        return True
    if max(a.count(" "), b.count(" ")) >= _NAME:
        return False
    asked = set(re.findall(r"\w+", prompt.casefold()))
    heads = [_TAIL.split(each, maxsplit=1)[0] for each in (a, b)]
    if (heads[0] == a) != (heads[1] == b):
        a, b = heads
    ours, theirs = ([w for w in each.split() if w not in asked] or each.split() for each in (a, b))
    if asked & _PERSONS:
        least = min(len(ours), len(theirs))
        ours, theirs = ours[-least:], theirs[-least:]
    return len(ours) == len(theirs) and all(_same_word(x, y) for x, y in zip(ours, theirs, strict=True))


def _same_word(a: str, b: str) -> bool:
    if len(a) >= _ACCENTED and a.isascii() != b.isascii() and _without_accents(a) == _without_accents(b):
        return True
    return a == b or _is_plural(b, a) or _is_plural(a, b)


def _without_accents(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


def _is_plural(many: str, one: str) -> bool:
    if _IRREGULAR.get(many) == one:
        return True
    if len(one) < _STEM or not (one.isalpha() and many.isalpha()) or many in _OTHER:
        return False
    forms = set() if one.endswith("s") else {one + "s"}
    forms |= {one + "es"} if one.endswith(("s", "x", "z", "ch", "sh", "o")) else set()
    forms |= {one[:-1] + "ies"} if one.endswith("y") else set()
    forms |= {one.removesuffix("e")[:-1] + "ves"} if one.endswith(("f", "fe")) else set()
    forms |= {one[:-2] + "en"} if one.endswith("man") else set()
    return many in forms


_LONG = 4  # words from which on an answer can be another with a word changed


def near_copy(a: str, b: str) -> bool:
    """Whether of two plain answers of several words one is the other with a few words changed: three quarters of the
    longer one's different words are in both, singular or plural. Small models make lists so."""
    x, y = set(a.split()), set(b.split())
    longest = max(len(x), len(y))
    if min(len(x), len(y)) < _LONG:
        return False
    both = len(x & y) + sum(any(_same_word(word, other) for other in y - x) for word in x - y)
    return 4 * both >= 3 * longest


def _spans(text: str, items: Sequence[str]) -> list[tuple[int, int] | None]:
    """Where each item stands in the text; None where it stands there in another form (an escape in JSON, say)."""
    out: list[tuple[int, int] | None] = []
    at = 0
    for item in items:
        found = text.find(item, at)
        out.append(None if found < 0 else (found, found + len(item)))
        at = at if found < 0 else found + len(item)
    return out


def _probabilities(text: str, spans: Sequence[tuple[int, int] | None]) -> list[float | None]:
    """Of each item. As many as items belong to them in order; else each to the item that it follows."""
    found = [(m.start(), _share(m[1], m[2])) for m in _PROBABILITY.finditer(text)]
    if len(found) == len(spans):
        return [value for _, value in found]
    out: list[float | None] = [None] * len(spans)
    for at, value in found:
        before = [i for i, span in enumerate(spans) if span is not None and span[0] <= at]
        if before:
            out[before[-1]] = value
    return out


def _share(number: str, percent: str) -> float | None:
    """0.2, "20%" and "20" are a share; what cannot be one is None."""
    value = float(number)
    value = value / 100 if percent or value > 1 else value
    return value if value <= 1 else None


def _token_ends(engine: Engine, output: SequenceOutput) -> list[int]:
    """Of each token, how many characters there are up to its end; [] where the engine gives no tokens."""
    if not isinstance(engine, TokenEngine) or len(output.logprobs) != len(output.token_ids):
        return []
    from thoughtmix.engine.detokenizer import IncrementalDetokenizer

    growing, ends = IncrementalDetokenizer(engine.model.tokenizer), list[int]()
    for token in output.token_ids:
        growing.push(token)
        ends.append(len(growing.text))
    return ends


def _tokens(
    output: SequenceOutput, ends: Sequence[int], span: tuple[int, int] | None, before: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The tokens that have a part in a span of the text, if they have next to nothing outside it: a space, a quote.
    before: characters of the text that were not generated."""
    if span is None or not ends or span[0] < before or ends[-1] < span[1] - before:
        return (), ()
    first, last = span[0] - before, span[1] - before
    starts = [0, *ends[:-1]]
    own = [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a < last and b > first]
    outside = output.text[starts[own[0]] : first] + output.text[last : ends[own[-1]]]
    if outside.strip(_EDGES):
        return (), ()
    return tuple(output.token_ids[i] for i in own), tuple(output.logprobs[i] for i in own)
