"""The prompts of a batch, one by one, from JSONL, CSV or plain lines; a file of any length takes no memory.

A record that cannot be asked (no JSON, no prompt in it) is one with an error, and the others stand.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import READ_LIMIT, parse_json, require_whole_characters
from thoughtmix.core.request import Prompt

Format = Literal["auto", "jsonl", "csv", "lines"]
FORMATS = ("auto", "jsonl", "csv", "lines")
COLUMNS = ("messages", "prompt", "text")
"""Where a record's prompt is looked for, unless a column is named."""
SEED_STRIDE = 2**20
"""Between the seeds of two prompts: more than a prompt has thoughts."""
STANDARD_INPUT = "-"
_SUFFIXES = {".csv": "csv", ".tsv": "csv", ".txt": "lines"}


@dataclass(frozen=True, slots=True)
class Record:
    """One prompt of a batch."""

    index: int
    """Its place in the input, from 0, blank lines left out."""
    prompt: Prompt | None
    """None: there is none, `error` says why."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What else the input says of it, and the column of the prompt: carried through."""
    error: str = ""

    @property
    def number(self) -> int:
        """By which its seed is told from others': its `id`, if it has one, else its index."""
        name = self.fields.get("id")
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            return self.index
        return int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=4).digest(), "big")

    def seed(self, of_batch: int) -> int:
        """Of its first thought. Depends on its id or index and the batch's seed alone, so that a prompt's thoughts are
        the same whatever else is in the batch, and whether it was stopped. The first prompt without an id has the
        batch's own seed."""
        return of_batch + self.number * SEED_STRIDE

    def digest(self) -> int:
        """Of the prompt, 64 bits, to see that it is still the one that was answered."""
        said = ("", ()) if self.prompt is None else (self.prompt.text, self.prompt.messages)
        return prompt_digest(*said)


def prompt_digest(text: str, messages: Sequence[Mapping[str, Any]]) -> int:
    """See `Record.digest`."""
    body = json.dumps([text, [dict(m) for m in messages]], ensure_ascii=True, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(body.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Where prompts come from.

    path: a file, or - for standard input. format: auto goes by the ending, and of standard input by the first line.
    column: of the prompt; None: the first there is of `columns`. system: a message before each. raw: see `Prompt`.
    what: a record's text is called, in errors.
    """

    path: str
    format: Format = "auto"
    column: str | None = None
    system: str | None = None
    raw: bool = False
    columns: tuple[str, ...] = COLUMNS
    what: str = "prompt"

    def check(self) -> None:
        """Read the first record. Raises `InputError` where there is none, or no prompt in it."""
        if self.format not in FORMATS:
            raise InputError(f"Unknown format {self.format!r}.", f"Pass one of {', '.join(FORMATS)}.")
        if self.path == STANDARD_INPUT:
            return
        self._check_first(next(self.records(), None))

    def count(self) -> int | None:
        """How many records there are; None of standard input."""
        if self.path == STANDARD_INPUT:
            return None
        with self._open() as file:
            if self._kind(b"") == "csv":
                return sum(1 for _ in self._rows(file, b""))
            return sum(1 for line in file if line.strip())

    def records(self) -> Iterator[Record]:
        """Every record, in order. Raises `InputError` when the file cannot be read."""
        with self._open() as file:
            first = b""
            while not first.strip():
                first = file.readline(READ_LIMIT)
                if not first:
                    return
            first = first.removeprefix(codecs.BOM_UTF8)
            kind = self._kind(first)
            rows = self._rows(file, first) if kind == "csv" else self._lines(file, first, kind)
            for index, (value, error) in enumerate(rows):
                yield Record(index, None, error=error) if error else self.record(index, value)

    def _open(self) -> IO[bytes]:
        if self.path == STANDARD_INPUT:
            return open(sys.stdin.fileno(), "rb", closefd=False)  # a descriptor, no path
        try:
            return Path(self.path).open("rb")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"Cannot read {self.path}: {reason}.", f"Name a file of {self.what}s, or - for standard input."
            ) from None

    def _kind(self, first: bytes) -> str:
        if self.format != "auto":
            return self.format
        if self.path != STANDARD_INPUT:
            return _SUFFIXES.get(Path(self.path).suffix.lower(), "jsonl")
        return "jsonl" if first.lstrip()[:1] == b"{" else "lines"

    def _lines(self, file: IO[bytes], first: bytes, kind: str) -> Iterator[tuple[Any, str]]:
        """(value, "") or (None, what is wrong) of each line."""
        for line in itertools.chain([first], iter(lambda: file.readline(READ_LIMIT), b"")):
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8").rstrip("\r\n")
                yield (text if kind == "lines" else parse_json(text)), ""
            except UnicodeDecodeError:
                yield None, "The line is not UTF-8."
            except ValueError as error:
                yield None, f"The line is no JSON: {error}."

    def _rows(self, file: IO[bytes], first: bytes) -> Iterator[tuple[Any, str]]:
        lines = (line.decode("utf-8", "surrogateescape") for line in itertools.chain([first], file) if line)
        tab = self.path.lower().endswith(".tsv")
        reader = csv.DictReader(lines, delimiter="\t" if tab else ",", restkey="", restval="")
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield None, f"The row is no CSV: {error}."
                continue
            named = {name: value for name, value in row.items() if name}
            try:
                require_whole_characters(named)
            except ValueError:
                yield None, "The row is not UTF-8."
                continue
            yield named, ""

    def record(self, index: int, value: Any) -> Record:
        """What was read as one record: an object with a prompt in it, or a text."""
        fields: Mapping[str, Any] = {}
        if isinstance(value, str):
            said: Any = value
        elif isinstance(value, Mapping):
            fields = value
            names = self.columns if self.column is None else (self.column,)
            said = next((value[name] for name in names if value.get(name)), None)
            if said is None:
                missing = f"no {self.column!r}" if self.column else f"no {self.what}"
                has = f"it has {', '.join(value)}" if value else "it is empty"
                return Record(index, None, fields, f"The record has {missing}: {has}.")
        else:
            return Record(index, None, error="The record is neither an object nor a text.")
        try:
            return Record(index, self._prompt(said), fields)
        except ValueError as error:
            return Record(index, None, fields, f"The record has no {self.what} that can be used: {error}.")

    def _prompt(self, said: Any) -> Prompt:
        """Raises ValueError."""
        require_whole_characters(said)
        if isinstance(said, str):
            if not said.strip():
                raise ValueError("it is blank")
            if self.system is None:
                return Prompt(said, self.raw)
            said = [{"role": "user", "content": said}]
        if not isinstance(said, list) or not said:
            raise ValueError("it is neither a text nor a list of messages")
        for message in said:
            if not isinstance(message, Mapping) or not all(
                isinstance(message.get(k), str) for k in ("role", "content")
            ):
                raise ValueError("a message needs a role and a content, both texts")
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return Prompt((*before, *said), self.raw)

    def _check_first(self, first: Record | None) -> None:
        """A whole file in the wrong form is refused at once, not line by line."""
        if first is None:
            raise InputError(f"{self.path} holds no {self.what}.", "Put one on each line.")
        if first.error:
            texts = [name for name, value in first.fields.items() if isinstance(value, str)]
            hint = f"Name the column: --column {texts[0]}" if texts else "See: thoughtmix think --help"
            if not first.fields:
                hint = "Say what it is: --format lines, csv or jsonl."
            raise InputError(f"{self.path}, record 1: {first.error}", hint)
