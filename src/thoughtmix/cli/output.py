"""Where results go: to standard output, or whole into a file; colour only to a terminal.

The same everywhere: `--json` prints the result as JSON and nothing else, `--out FILE` writes that into a file, `--html
FILE` one self-contained page. `-` is standard output. A file that is there is replaced, when all of the new one is
written; a folder with something of the kind in it is refused or gone on with, as the command says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtmix.core.errors import InputError
from thoughtmix.core.files import check_writable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from thoughtmix.cli.reporting import Reporter
    from thoughtmix.core.types import ThoughtSet

STDOUT = Path("-")


def print_either(rich: Callable[[], RenderableType], plain: Callable[[], str]) -> None:
    """Panels and colour on a terminal, plain text into a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich())
    else:
        print(plain())


def print_json(value: Any) -> None:
    print(as_json(value))


def as_json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=2)


def show_set(thoughts: ThoughtSet, details: bool = False, hints: bool = False) -> None:
    """Print a set. hints: what may be typed next, for somebody who looks at it."""
    from thoughtmix.report.text import next_steps, plain, render

    print_either(lambda: render(thoughts, details), lambda: plain(thoughts, details=details))
    if hints and sys.stdout.isatty():
        print(next_steps(thoughts))


def check_files(*files: Path | None) -> None:
    """Refuse what could not be written, before a model works for it. Raises `InputError`."""
    if sum(file == STDOUT for file in files) > 1:
        raise InputError("Two results were sent to standard output.", "Name a file for one of them.")
    for file in files:
        if file is not None and file != STDOUT:
            check_writable(file)


def write_file(file: Path | None, text: Callable[[], str], report: Reporter) -> None:
    """Write a result whole into a file, and say so; or print it, for `-`. Nothing for None."""
    if file is None:
        return
    if file == STDOUT:
        print(text())
        return
    from thoughtmix.core.files import write_whole

    write_whole(file, text() + ("" if file.suffix == ".html" else "\n"))
    report.note(f"Wrote {file}")
