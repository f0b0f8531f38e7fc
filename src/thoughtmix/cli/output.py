"""Where things are printed: results to stdout, progress to stderr, colour only to a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet


def show(thoughts: ThoughtSet) -> None:
    """Panels on a terminal, plain text into a pipe."""
    from thoughtmix.report.text import plain, render

    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(render(thoughts))
    else:
        print(plain(thoughts))


def check_folder(*files: Path | None) -> None:
    """Refuse a file that could not be written, before a model works for it. Raises `InputError`."""
    for folder in (file.absolute().parent for file in files if file is not None):
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", f"Type: mkdir -p '{folder}'")


def finish(thoughts: ThoughtSet, json: bool, html: Path | None) -> None:
    """Write the page if one is wanted, and show the thoughts, or print them as JSON and nothing else."""
    if html is not None:
        from thoughtmix.core.types import write_whole
        from thoughtmix.report.html import page

        write_whole(html, page(thoughts))
    if json:
        print(thoughts.to_json())
        return
    show(thoughts)
    if html is not None:
        print(f"Wrote {html}", file=sys.stderr)


def progress() -> Callable[[str], None]:
    """For long steps: a line each on stderr."""
    return lambda line: print(f"{line} ...", file=sys.stderr, flush=True)
