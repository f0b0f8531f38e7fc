"""What a command says on stderr while it works: notes, and how far something long has come."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

EVERY = 5.0
"""Seconds between two lines of progress in a pipe. What is quicker says nothing there."""
RARER = 60.0
"""After so many seconds lines come a third as often."""
REDRAWN = 0.15
"""Seconds between two looks of the line on a terminal."""
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Reporter:
    """Speaks on stderr: on a terminal in one line that renews itself, elsewhere with a line every few seconds.

    A command with a parameter of this type has the option `--quiet`, and gets the one that was asked for.

    Args:
        quiet: Say nothing but what went wrong.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._line: _Line | None = None

    def note(self, line: str) -> None:
        """A line that stays and is no error."""
        if not self.quiet:
            self._print(line)

    def step(self, line: str) -> None:
        """A long step begins: what `on_progress` of a `Pipeline` is told. It stays as a line, unless one on a terminal
        can say it."""
        if self._line is not None:
            self._line.say(line)
        if self._line is None or not self._line.terminal:
            self.note(f"{line} ...")

    def start(self, *modules: str) -> None:
        """Import what takes its seconds, in view."""
        with self.work("Starting"):
            for module in modules:
                import_module(module)

    def warn(self, line: str) -> None:
        """What went wrong; said to the quiet, too."""
        self._print(f"thoughtmix: {line}")

    @contextmanager
    def work(self, words: str) -> Iterator[Callable[[str], None]]:
        """While something long is at work.

        Args:
            words: What it is ("loading the model").

        Yields:
            A function that takes newer words, as often as there are any.
        """
        if self.quiet:
            yield lambda words: None
            return
        if self._line is not None:  # a part of something longer: the same line says it
            outer, before = self._line, self._line.words
            try:
                yield outer.say
            finally:
                outer.say(before)
            return
        self._line = _Line(words)
        try:
            yield self._line.say
        finally:
            line, self._line = self._line, None
            line.end()

    def _print(self, line: str) -> None:
        if self._line is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._line.above(line)


class _Line:
    """The line of progress, with a thread that shows it: work may go on for long without a word."""

    def __init__(self, words: str) -> None:
        self.words, self._stream = words, sys.stderr
        self._began = time.monotonic()
        self.terminal = self._stream.isatty()
        self._ended, self._lock, self._shown = threading.Event(), threading.Lock(), False
        self._thread = threading.Thread(target=self._show_now_and_then, name="thoughtmix-progress", daemon=True)
        self._thread.start()

    def say(self, words: str) -> None:
        self.words = words

    def above(self, line: str) -> None:
        """Print a line that stays, and go on below it."""
        with self._lock:
            self._clear()
            self._write(f"{line}\n")

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._clear()

    def _show_now_and_then(self) -> None:
        looks = 0
        seconds = 0.0
        while not self._ended.wait(REDRAWN if self.terminal else EVERY * (1 if seconds < RARER else 3)):
            looks += 1
            with self._lock:
                if self._ended.is_set():
                    return
                seconds = time.monotonic() - self._began
                if not self.terminal:
                    self._write(f"{self.words} ({seconds:.0f} s)\n")
                    continue
                room = shutil.get_terminal_size().columns - 1
                line = f"{_SPINNER[looks % len(_SPINNER)]} {self.words} · {seconds:.0f} s"
                self._write(f"\r\x1b[2K{line[:room]}")
                self._shown = True

    def _clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[2K")
            self._shown = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a stderr that was closed keeps no work from its end
            self._stream.write(text)
            self._stream.flush()
