"""Sets of known answers, and reading an answer out of chatty text: which member of the set does it name?

One text gives one answer: the one after "the answer is", else the first that is named and not ruled out ("not Kenya",
"unlike Kenya"). So a text gains nothing by listing many.
"""

from __future__ import annotations

import functools
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files

from thoughtmix.bench.tasks.items import NO_ANSWER, ParsedAnswer

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
Ways = tuple[str, ...]


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
    """The answers to one prompt."""

    prompt: str
    paraphrases: tuple[str, ...]
    answers: Mapping[str, Ways]
    """Each answer, and every way to write it. A way that begins with "=" or is all capitals (US) must be written in
    that case."""
    others: Mapping[str, Ways] = field(default_factory=dict)
    """Answers that can be read and are wrong."""
    quoted: bool = False
    """Take only words that are marked as the answer, since any word of its sentence could be one."""
    ignore: frozenset[str] = frozenset()
    """Words of the prompt that are no answers."""

    def parse(self, text: str) -> ParsedAnswer:
        """The one answer of a text."""
        said = without_echo(text, self.prompt)
        return self._marked(said) if self.quoted else self._first(flat(said))

    def _first(self, said: str) -> ParsedAnswer:
        found = [m for m in self._pattern.finditer(said) if not _RULED_OUT.search(said[: m.start()])]
        cue = _CUE.search(said)
        if cue is not None:
            found = [m for m in found if m.start() >= cue.end()]
            found = [m for m in found if len(said[cue.end() : m.start()].split()) < _AFTER_CUE]
        return self._named(found[0][0]) if found else NO_ANSWER

    def _marked(self, said: str) -> ParsedAnswer:
        """Words in quotes or bold, alone on a line, or after a cue; the first of them that could be an answer."""
        lines = [flat(line) for line in _LIST_MARK.sub("", said).splitlines()]
        candidates = [flat(next(g for g in m.groups() if g)) for m in _MARKED.finditer(said)]
        candidates += [line for line in lines if 0 < len(line.split()) <= 3]
        candidates += [flat(next(g for g in m.groups() if g)) for m in _NAMED.finditer(said)]
        for candidate in candidates:
            words = [w for w in candidate.split() if w.casefold() not in _FILLER]
            name = " ".join(words)
            if name and not set(name.casefold().split()) & self.ignore and len(words) <= 2:
                return self._named(name)
        return NO_ANSWER

    def _named(self, name: str) -> ParsedAnswer:
        key = name.casefold()
        for form in (key, key.removesuffix("s"), key.removesuffix("es")):
            if form in self._names:
                return self._names[form]
        return ParsedAnswer(key, False)

    @cached_property
    def _names(self) -> dict[str, ParsedAnswer]:
        """Every way to write an answer, flat and without case -> what it means. Right answers win over wrong ones."""
        out: dict[str, ParsedAnswer] = {}
        for valid, group in ((False, self.others), (True, self.answers)):
            for answer, ways in group.items():
                out |= {_key(way): ParsedAnswer(answer, valid) for way in ways}
        return out

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """The longest name at the earliest place, singular or plural."""
        ways = {way for group in (self.answers, self.others) for ways in group.values() for way in ways}
        exact = {_key(w): _written(w) for w in ways if w.startswith("=") or (w.isupper() and len(w) > 1)}
        names = sorted({_key(w) for w in ways}, key=lambda name: (-len(name), name))
        parts = [re.escape(exact[n]) if n in exact else f"(?i:{re.escape(n)}(?:e?s)?)" for n in names]
        return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")


def _written(way: str) -> str:
    return flat(way.removeprefix("=").removeprefix("The "))


def _key(way: str) -> str:
    return _written(way).casefold()


@functools.cache
def answer_sets() -> dict[str, AnswerSet]:
    """Every set by name, from the files in `data/`, in their order.

    In a file with `shared = true`, an answer of another task of the file is read as an answer, and a wrong one.
    """
    out: dict[str, AnswerSet] = {}
    for file in sorted(files(__package__).joinpath("data").iterdir(), key=lambda f: f.name):
        tasks = tomllib.loads(file.read_text(encoding="utf-8"))
        shared = bool(tasks.pop("shared", False))
        answers = {name: _answer_lines(task["answers"]) for name, task in tasks.items()}
        for name, task in tasks.items():
            wrong = task.get("others", [n for n in answers if n != name] if shared else [])
            out[name] = AnswerSet(
                task["prompt"],
                tuple(task["paraphrases"]),
                answers[name],
                _merged(answers[n] for n in wrong),
                bool(task.get("quoted", False)),
                frozenset(task.get("ignore", ())),
            )
    return out


def _answer_lines(text: str) -> dict[str, Ways]:
    """A block of answers, one a line, other ways to write each after "|": answer -> all ways, itself first."""
    rows = [tuple(way.strip() for way in line.split("|")) for line in text.splitlines() if line.strip()]
    return {row[0].removeprefix("="): row for row in rows}


def _merged(groups: Iterable[Mapping[str, Ways]]) -> dict[str, Ways]:
    """All answers of several sets."""
    return {answer: ways for group in groups for answer, ways in group.items()}
