"""Nouns of WordNet 3.0 (Fellbaum 1998; the files of wndb(5WN)): what is a kind of what, and which words are known.

A word counts as a member of a category in its first two senses only: "pen" is a swan in its third, and whoever answers
"Name a bird." with it did not mean that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thoughtmix.core.errors import InputError

SYSTEM = Path("/usr/share/wordnet")
_HINT = "Type: apt install wordnet-base; or name the folder with data.noun (--wordnet DIR)."
_SENSES = 2
_SHORTEST = 3  # letters of a member


@dataclass(frozen=True)
class WordNet:
    """What is read of the files.

    words: of each synset, by its offset in data.noun. below: the synsets right under it, kinds and instances. senses:
    the synsets of a lemma (lower case), the commonest first. common: the words of any part of speech that WordNet's
    authors met in the texts that they tagged, lower case, letters alone.
    """

    words: dict[str, tuple[str, ...]]
    below: dict[str, tuple[str, ...]]
    senses: dict[str, tuple[str, ...]]
    common: frozenset[str]

    @classmethod
    def read(cls, folder: Path = SYSTEM) -> WordNet:
        """Read the files of a folder. Raises `InputError` where they are missing or are none of WordNet's."""
        try:
            words, below = {}, {}
            for line in _lines(folder / "data.noun"):
                offset, words[offset], below[offset] = _synset(line)
            senses = dict(_senses(line) for line in _lines(folder / "index.noun"))
            lemmas = (line.partition("%")[0] for line in _lines(folder / "cntlist.rev"))
            return cls(words, below, senses, frozenset(word for word in lemmas if word.isascii() and word.isalpha()))
        except (OSError, UnicodeDecodeError):
            raise InputError(f"There is no WordNet in {folder}.", _HINT) from None
        except (ValueError, IndexError):
            raise InputError(f"{folder} holds files that are none of WordNet's.", _HINT) from None

    def members(self, lemma: str, sense: int) -> dict[str, tuple[str, ...]]:
        """All that is a kind or an instance of a noun in a sense (from 1): each with every way to write it. Nothing
        where there is no such noun or sense."""
        found = self.senses.get(lemma.lower(), ())
        if not 1 <= sense <= len(found):
            return {}
        top = found[sense - 1]
        own = {word.lower() for word in self.words[top]}
        out: dict[str, tuple[str, ...]] = {}
        for synset in sorted(self._under(top)):
            ways = [w for w in self.words[synset] if w.lower() not in own and self._meant(w, synset)]
            if ways:
                out[synset] = tuple(w.replace("_", " ") for w in ways)
        return {ways[0]: ways for ways in out.values()}

    def _meant(self, word: str, synset: str) -> bool:
        senses = self.senses.get(word.lower(), ())
        return len(word) >= _SHORTEST and synset in senses[:_SENSES]

    def _under(self, top: str) -> set[str]:
        seen: set[str] = set()
        left = [top]
        while left:
            new = [synset for synset in self.below[left.pop()] if synset not in seen]
            seen.update(new)
            left += new
        return seen


def _lines(path: Path) -> Iterator[str]:
    """Without the licence, whose lines begin with two spaces."""
    with path.open(encoding="utf-8") as stream:
        yield from (line for line in stream if not line.startswith("  "))


def _synset(line: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """offset lex_filenum ss_type w_cnt (word lex_id)... p_cnt (symbol offset pos source/target)... | gloss"""
    parts = line.partition(" | ")[0].split()
    end = 4 + 2 * int(parts[3], 16)
    pointers = range(end + 1, end + 1 + 4 * int(parts[end]), 4)
    below = tuple(parts[at + 1] for at in pointers if parts[at] in {"~", "~i"})
    return parts[0], tuple(parts[4:end:2]), below


def _senses(line: str) -> tuple[str, tuple[str, ...]]:
    """lemma pos synset_cnt p_cnt symbol... sense_cnt tagsense_cnt offset..."""
    parts = line.split()
    return parts[0], tuple(parts[-int(parts[2]) :])
