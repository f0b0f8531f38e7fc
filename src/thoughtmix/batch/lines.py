"""The answers of a batch: a file of thought sets, one a line, that a killed run leaves whole and the next one goes on.

A line is a thought set's JSON (docs/thoughtset.md) with `index`, what the input said of the prompt, and `error`, empty
where there is none. Lines carry the settings of the batch, so that nothing else need be kept to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from thoughtmix.batch.records import Record, prompt_digest
from thoughtmix.core.errors import InputError
from thoughtmix.core.files import READ_LIMIT, check_writable, parse_json, writing, written
from thoughtmix.core.types import ThoughtSet

STANDARD_OUTPUT = "-"
_BEGINNING = b'{"index": '
_FLUSH_SECONDS = 1.0
"""Between two writes to the disk itself: a killed process loses nothing, a machine without power this much."""


def line_of(record: Record, thoughts: ThoughtSet) -> dict[str, Any]:
    """A set and what the input said, as one object; a field of the input that has a set's own name, and another value,
    gets input_ before it."""
    own = {"index": record.index, **thoughts.to_dict(), "error": str(thoughts.run.get("error", ""))}
    fields = {f"input_{k}" if k in own else k: v for k, v in record.fields.items() if k not in own or v != own[k]}
    return {"index": record.index, **fields, **own}


def encoded(line: Mapping[str, Any]) -> bytes:
    """One line of JSON."""
    return json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8", errors="replace") + b"\n"


class AnswerFile:
    """The file of answers of one batch.

    Args:
        path: A new file, or one that an earlier run of the same batch wrote: then it goes on. - is standard output.
        settings: Of the batch, as JSON; a file of other settings is refused.
        again: Take failed prompts out of the file first, so that they are asked again.

    Raises:
        InputError: The file is another batch's or no batch's, is being written by another process, or cannot be.
    """

    def __init__(self, path: str, settings: Mapping[str, Any], again: bool = False) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.done = 0
        self._digests: array[int] = array("Q")  # of the prompt of each index; 0: not answered
        self._flushed = 0.0
        self._file: IO[bytes] | None = None
        if path == STANDARD_OUTPUT:
            return
        check_writable(path)
        with writing(path):
            file = self._file = Path(path).open("ab+")  # noqa: SIM115  # closed by __exit__
        try:
            self._lock(file)
            if again:
                self._without_errors()
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())
            self._file.close()

    # --- what is there ---

    def earlier(self) -> Iterator[dict[str, Any]]:
        """The lines of earlier runs, in their order; must be read to the end before anything is added. A last line that
        was half written is cut off.

        Raises:
            InputError: See the class.
        """
        file = self._file
        if file is None:
            return
        file.seek(0)
        number = end = 0
        for number, line in enumerate(iter(lambda: file.readline(READ_LIMIT), b""), 1):
            if not line.endswith(b"\n"):
                if line[: len(_BEGINNING)] != _BEGINNING[: len(line)]:
                    raise self._foreign(number)
                with writing(self.path):
                    file.truncate(end)
                break
            end += len(line)
            yield self._checked(line, number)
        file.seek(0, os.SEEK_END)

    def _checked(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            body = parse_json(line.decode())
            index, batch = body["index"], body["run"]["batch"]
            digest = prompt_digest(body["prompt"], body["messages"])
        except (ValueError, KeyError, TypeError):
            raise self._foreign(number) from None
        names = [name for name in {*batch, *self.settings} if batch.get(name) != self.settings.get(name)]
        if names:
            said = "; ".join(
                f"{n} was {_shown(batch.get(n))}, is {_shown(self.settings.get(n))}" for n in sorted(names)
            )
            raise InputError(f"{self.path} was made with other settings: {said}.", "Name another file (--out).")
        if self.has(index):
            raise InputError(f"{self.path} answers prompt {index} twice.", "Name another file (--out).")
        self._note(index, digest)
        return dict(body)

    def _foreign(self, number: int) -> InputError:
        return InputError(f"{self.path}, line {number} is no answer of a batch.", "Name another file (--out).")

    def has(self, index: int) -> bool:
        """Whether the prompt at `index` is answered."""
        return index < len(self._digests) and self._digests[index] != 0

    def skip(self, record: Record) -> bool:
        """Whether the record is answered. Raises `InputError` where that was another prompt."""
        if not self.has(record.index):
            return False
        if self._digests[record.index] != _not_zero(record.digest()):
            raise InputError(
                f"Prompt {record.index} of the input is not the one that {self.path} answers.",
                "Name another file (--out), or put the input back as it was.",
            )
        return True

    def _note(self, index: int, digest: int) -> None:
        if index >= len(self._digests):
            self._digests.extend([0] * (index + 1 - len(self._digests)))
        self._digests[index] = _not_zero(digest)
        self.done += 1

    # --- what comes ---

    def add(self, record: Record, thoughts: ThoughtSet) -> dict[str, Any]:
        """Write one line, whole: when this returns a killed process does not lose it. Raises as `written`."""
        line = line_of(record, thoughts)
        body = encoded(line)
        if self._file is None:
            sys.stdout.flush()
            sys.stdout.buffer.write(body)
            sys.stdout.buffer.flush()
        else:
            before = os.fstat(self._file.fileno()).st_size
            with writing(self.path):
                try:
                    self._file.write(body)
                    self._file.flush()
                    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                        os.fsync(self._file.fileno())
                        self._flushed = time.monotonic()
                except OSError:
                    with contextlib.suppress(OSError):
                        os.ftruncate(self._file.fileno(), before)
                    raise
        self._note(record.index, record.digest())
        return line

    # --- the file itself ---

    def _lock(self, file: IO[bytes]) -> None:
        """Two runs would each write what the other writes, too. The lock goes with the process, however it ends."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"Another process is writing {self.path}.", "Wait for it, or name another file.") from None
        except OSError:  # a file system without locks
            pass

    def _without_errors(self) -> None:
        """Leave out the lines with an error."""
        good = 0
        with written(self.path) as part, part.open("wb") as out:
            for line in self.earlier():
                if not line["error"]:
                    out.write(encoded(line))
                    good += 1
        assert self._file is not None
        self._file.close()
        self._digests, self.done = array("Q"), 0
        with writing(self.path):
            self._file = Path(self.path).open("ab+")  # noqa: SIM115
        self._lock(self._file)


def _not_zero(digest: int) -> int:
    return digest or 1


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]
