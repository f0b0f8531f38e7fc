"""Reading an answer out of chatty text: which member of a known set does it name?

One text gives one answer: the one after "the answer is", else the first that is named and not ruled out ("not Kenya",
"unlike Kenya"). So a text gains nothing by listing many.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from thoughtmix.bench.tasks.item import UNREAD, Reading

_CUE = re.compile(r"\b(?i:(?:final |my |the )?answer (?:is|would be|could be)|answer)\b")
_AFTER_CUE = 6  # words in which the answer must begin
_RULED_OUT = re.compile(
    r"\b(?i:not|isnt|never|except|besides|excluding|unlike|other than|rather than|instead of)"
    r"(?i: (?:the|a|an|in|of|for))* $"
)
_MARKED = re.compile(
    r"[\"“”«»]([^\"“”«»\n]{1,40})[\"“”«»]|\*{1,2}([^*\n]{1,40})\*{1,2}|(?<!\w)['‘]([^'’\n]{1,40})['’](?!\w)"
)
_NAMED = re.compile(
    r"\b(?:answer|word|one|pick|choice|palindrome)\b[^.\n]{0,20}?(?:\b(?:is|would be)\b|:)\s*(?:the word\s+)?(\w+)"
    r"|\b(?:choose|pick|say|suggest)\s+(?:the word\s+)?(\w+)|(\w+)\s+(?:also\s+)?rhymes\s+with\b",
    re.IGNORECASE,
)
_FILLER = frozenset(
    {"a", "an", "the", "it", "that", "which", "this", "one", "word", "is", "of", "sure", "yes", "okay", "ok"}
)
_LIST_MARK = re.compile(r"^\s*(?:\d{1,2}[.)]|[-*•])\s+", re.MULTILINE)


def flat(text: str) -> str:
    """Words and numbers with single spaces, in their own case: no accents, apostrophes or punctuation."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\w)['’`.](?=\w\b)|['’`]", "", plain)  # don't -> dont, U.S.A. -> USA
    return " ".join(re.findall(r"\w+", plain.replace("_", " ")))


def without_echo(text: str, prompt: str) -> str:
    """The text after the prompt, where it begins with it."""
    said = text.lstrip()
    return said[len(prompt) :] if prompt and said.casefold().startswith(prompt.casefold()) else text


@dataclass(frozen=True)
class AnswerSet:
    """The answers to one prompt.

    answers: each answer -> every way to write it. A way that begins with "=" or is all capitals (US) must be written in
    that case. others: answers that can be read and are wrong. quoted: take only words that are marked as the answer,
    since any word of its sentence could be one. ignore: words of the prompt that are no answers.
    """

    prompt: str
    answers: Mapping[str, tuple[str, ...]]
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    quoted: bool = False
    ignore: frozenset[str] = frozenset()

    def read(self, text: str) -> Reading:
        """The one answer of a text."""
        said = without_echo(text, self.prompt)
        return self._marked(said) if self.quoted else self._first(flat(said))

    def _first(self, said: str) -> Reading:
        found = [m for m in self._pattern.finditer(said) if not _RULED_OUT.search(said[: m.start()])]
        cue = _CUE.search(said)
        if cue is not None:
            found = [m for m in found if m.start() >= cue.end()]
            found = [m for m in found if len(said[cue.end() : m.start()].split()) < _AFTER_CUE]
        return self._reading(found[0][0]) if found else UNREAD

    def _marked(self, said: str) -> Reading:
        """Words in quotes or bold, alone on a line, or after a cue; the first of them that could be an answer."""
        lines = [flat(line) for line in _LIST_MARK.sub("", said).splitlines()]
        candidates = [flat(next(g for g in m.groups() if g)) for m in _MARKED.finditer(said)]
        candidates += [line for line in lines if 0 < len(line.split()) <= 3]
        candidates += [flat(next(g for g in m.groups() if g)) for m in _NAMED.finditer(said)]
        for candidate in candidates:
            words = [w for w in candidate.split() if w.casefold() not in _FILLER]
            name = " ".join(words)
            if name and not set(name.casefold().split()) & self.ignore and len(words) <= 2:
                return self._reading(name)
        return UNREAD

    def _reading(self, name: str) -> Reading:
        key = name.casefold()
        for form in (key, key.removesuffix("s"), key.removesuffix("es")):
            if form in self._names:
                return self._names[form]
        return Reading(key, False)

    @cached_property
    def _names(self) -> dict[str, Reading]:
        """Every way to write an answer, flat and without case -> what it means. Right answers win over wrong ones."""
        out: dict[str, Reading] = {}
        for valid, group in ((False, self.others), (True, self.answers)):
            for answer, ways in group.items():
                out |= {_key(way): Reading(answer, valid) for way in ways}
        return out

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """The longest name at the earliest place, singular or plural."""
        ways = {way for group in (self.answers, self.others) for ways in group.values() for way in ways}
        exact = {_key(w): _written(w) for w in ways if w.startswith("=") or (w.isupper() and len(w) > 1)}
        names = sorted({_key(w) for w in ways}, key=lambda name: (-len(name), name))
        parts = [re.escape(exact[n]) if n in exact else f"(?i:{re.escape(n)}(?:e?s)?)" for n in names]
        return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")


def answer_lines(text: str) -> dict[str, tuple[str, ...]]:
    """A block of answers, one a line, other ways to write each after "|": answer -> all ways, itself first."""
    rows = [tuple(way.strip() for way in line.split("|")) for line in text.splitlines() if line.strip()]
    return {row[0].removeprefix("="): row for row in rows}


def merged(groups: Iterable[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """All answers of several sets."""
    return {answer: ways for group in groups for answer, ways in group.items()}


def _written(way: str) -> str:
    return flat(way.removeprefix("=").removeprefix("The "))


def _key(way: str) -> str:
    return _written(way).casefold()
