"""`thoughtmix show`: look at a saved thought set again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thoughtmix.cli import app


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A thought set saved with `thoughtmix think --json`.")],
    select: Annotated[int | None, typer.Option(help="Show only the k most different good thoughts.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page here instead.")] = None,
) -> None:
    """Print a saved thought set, or make a page of it."""
    from thoughtmix.core.types import ThoughtSet, write_whole

    thoughts = ThoughtSet.from_json(file)
    if select is not None:
        thoughts = thoughts.select(select)
    if html is not None:
        from thoughtmix.report.html import page

        write_whole(html, page(thoughts))
        print(f"Wrote {html}", file=sys.stderr)
        return
    from thoughtmix.cli.output import show as print_set

    print_set(thoughts)
