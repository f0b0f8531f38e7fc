"""The directions in which an idea can be disturbed, as data: those in the box, and those of a user's own TOML file."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from thoughtmix.core.errors import InputError, UnknownName
from thoughtmix.core.files import bounded_text, parse_toml
from thoughtmix.core.request import TextEmbedder

STRENGTHS = ("precise", "vague", "chaotic")
LANGUAGES = ("en", "fr")
_ENTRY = '[[direction]] name = "pirate", family = "style", en = "Say it as a pirate would."'


@dataclass(frozen=True, slots=True)
class Direction:
    """One way to disturb a text."""

    name: str
    family: str
    wording: Mapping[str, Mapping[str, str]]
    """Language -> strength -> what is asked for."""

    def instruction(self, strength: str = "precise", language: str = "en") -> str:
        """Raises `UnknownName` for a strength or language that it has not."""
        check(strength, language, self.wording)
        if strength not in self.wording[language]:
            raise UnknownName(f"strength of direction {self.name!r}:", strength, self.wording[language])
        return self.wording[language][strength]


def check(strength: str, language: str, languages: Iterable[str] = LANGUAGES) -> None:
    """Raises `UnknownName`."""
    if strength not in STRENGTHS:
        raise UnknownName("strength", strength, STRENGTHS)
    if language not in languages:
        raise UnknownName("language", language, languages)


class Catalogue(Mapping[str, Direction]):
    """Directions by name. `Catalogue.load()` has those in the box; `load("own.toml")` adds those of files, which
    replace others of the same name."""

    def __init__(self, directions: Iterable[Direction]) -> None:
        self._by = {d.name: d for d in directions}

    @classmethod
    def load(cls, *paths: str | Path) -> Catalogue:
        """Raises `InputError` for a file that cannot be read, naming the entry that does not fit."""
        own = [d for path in paths for d in read_directions(Path(path))]
        return cls([*_built_in(), *own])

    def __getitem__(self, name: str) -> Direction:
        if name not in self._by:
            raise UnknownName("direction", name, self._by)
        return self._by[name]

    def __iter__(self) -> Any:
        return iter(self._by)

    def __len__(self) -> int:
        return len(self._by)

    def __contains__(self, name: object) -> bool:
        return name in self._by

    @property
    def families(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(d.family for d in self._by.values()))

    def choose(self, families: Sequence[str] = (), names: Sequence[str] = ()) -> list[tuple[Direction, ...]]:
        """What thoughts take turns at: each name's direction ("poem+critic": both at once), then those of the families,
        which take turns; all families when nothing is named. Raises `UnknownName`."""
        named = [self.compose(name) for name in names]
        for family in families:
            if family not in self.families:
                raise UnknownName("family of directions", family, self.families)
        wanted = list(families) or ([] if named else self.families)
        columns = [[d for d in self._by.values() if d.family == family] for family in wanted]
        longest = max(map(len, columns), default=0)
        return named + [(column[i],) for i in range(longest) for column in columns if i < len(column)]

    def compose(self, name: str) -> tuple[Direction, ...]:
        """ "poem" -> one direction, "poem+critic" -> two. Raises `UnknownName`."""
        return tuple(self[part.strip()] for part in name.split("+"))


def most_different(
    choices: Sequence[tuple[Direction, ...]], embedder: TextEmbedder, strength: str = "precise", language: str = "en"
) -> list[tuple[Direction, ...]]:
    """The same choices, reordered so that the first n are the n most different ones, for every n at once: the greedy
    MAP of a determinantal point process over the instructions' embeddings (`selection.select_diverse`) takes one after
    another and never goes back. So which direction thought i gets does not depend on how many thoughts there are."""
    from thoughtmix.core.selection import select_diverse
    from thoughtmix.metrics.embedding import pairwise_distances

    texts = [" ".join(d.instruction(strength, language) for d in choice) for choice in choices]
    d = pairwise_distances(embedder.encode(texts))
    order = select_diverse(d.tolist(), [0.0] * len(choices), len(choices), quality_weight=0.0)
    return [choices[i] for i in order]


def read_directions(path: Path) -> list[Direction]:
    """The directions of one TOML file: [[direction]] entries with name, family, and for each language either one text
    for all strengths or a table of texts by strength. Raises `InputError`."""
    try:
        body = parse_toml(bounded_text(path))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the directions: {error}.", f"Write TOML: {_ENTRY}") from None
    return _entries(body, str(path))


@functools.cache
def _built_in() -> tuple[Direction, ...]:
    text = files(__package__).joinpath("catalogue.toml").read_text(encoding="utf-8")
    return tuple(_entries(tomllib.loads(text), "catalogue.toml"))


def _entries(body: Mapping[str, Any], where: str) -> list[Direction]:
    rows = body.get("direction")
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{where} has no [[direction]].", f"Write one: {_ENTRY}")
    out = [_entry(row, f"{where}, direction {i}") for i, row in enumerate(rows, 1)]
    twice = sorted({d.name for d in out if sum(other.name == d.name for other in out) > 1})
    if twice:
        raise InputError(f"{where} has two directions {twice[0]!r}.", "Give each its own name.")
    return out


def _entry(row: Any, where: str) -> Direction:
    if not isinstance(row, dict) or not all(isinstance(row.get(k), str) and row[k].strip() for k in ("name", "family")):
        raise InputError(f"{where} lacks name or family.", f"Write: {_ENTRY}")
    if any(c in row["name"] for c in ",+"):
        raise InputError(f"{where}: a name holds a comma or plus.", "Use letters and hyphens.")
    unknown = sorted(set(row) - {"name", "family", *LANGUAGES})
    if unknown:
        raise UnknownName(f"key of {where}:", unknown[0], ("name", "family", *LANGUAGES))
    wording = {language: _wording(row[language], where, language) for language in LANGUAGES if language in row}
    if not wording:
        raise InputError(f"{where} ({row['name']}) says nothing in any language.", f"Write: {_ENTRY}")
    return Direction(row["name"], row["family"], wording)


def _wording(value: Any, where: str, language: str) -> dict[str, str]:
    if isinstance(value, str):
        value = dict.fromkeys(STRENGTHS, value)
    if not isinstance(value, dict) or not value or not all(isinstance(v, str) and v.strip() for v in value.values()):
        raise InputError(f"{where}: {language} is no text and no table of texts.", f"Write: {_ENTRY}")
    for strength in value:
        if strength not in STRENGTHS:
            raise UnknownName(f"strength in {where}:", strength, STRENGTHS)
    return dict(value)
