"""`thoughtmix pull`: fetch the default models ahead of time."""

from __future__ import annotations

from typing import Annotated

import typer

from thoughtmix.cli import app


@app.command()
def pull(
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Default: what suits this machine.")
    ] = None,
    embedder: Annotated[bool, typer.Option(help="Fetch the sentence embedder too.")] = True,
) -> None:
    """Fetch the default models, convert them once, and repair damaged ones (180 MB to fetch, 0.8 GB on disk)."""
    from thoughtmix.cli.output import progress
    from thoughtmix.models import pull as fetch

    for name, folder in fetch(dtype, progress(), embedder).items():
        print(f"{name}: {folder}")
