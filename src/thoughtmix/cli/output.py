"""Where things are printed: results to stdout, progress to stderr, colour only to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thoughtmix.thoughts import ThoughtSet


def show(thoughts: ThoughtSet) -> None:
    """Panels on a terminal, plain text into a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console

        from thoughtmix.report.terminal import render

        Console().print(render(thoughts))
    else:
        from thoughtmix.report.text import plain

        print(plain(thoughts))


def progress() -> Callable[[str], None]:
    """For long steps: a line each on stderr."""
    return lambda line: print(f"{line} ...", file=sys.stderr, flush=True)
