"""`thoughtmix thinkers` and `thoughtmix metrics`: what there is to choose from."""

from __future__ import annotations

import json as codec
from typing import Annotated, Any

import typer

from thoughtmix.cli import app

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def thinkers(json: Json = False) -> None:
    """List the ways to explore, with their options."""
    from thoughtmix.core.errors import ThoughtmixError
    from thoughtmix.thinkers.registry import get_thinker, thinker_names

    rows: dict[str, dict[str, Any]] = {}
    for name in thinker_names():
        try:
            thinker = get_thinker(name)
            rows[name] = {"summary": thinker.summary, "options": dict(thinker.options)}
        except ThoughtmixError as error:  # one broken plug-in must not hide the others
            rows[name] = {"summary": str(error), "options": {}}
    if json:
        print(codec.dumps(rows, indent=2))
        return
    for name, row in rows.items():
        print(f"{name:10}  {row['summary']}")
        for option, text in row["options"].items():
            print(f"{'':10}    --option {option}=...  {text}")


@app.command()
def metrics(json: Json = False) -> None:
    """List the metrics: what each says, which way is better, when it fails."""
    from thoughtmix.metrics import METRICS

    if json:
        import dataclasses

        print(codec.dumps([dataclasses.asdict(m) for m in METRICS.values()], indent=2))
        return
    for m in METRICS.values():
        print(f"{m.name:15} {m.says} ({m.span}, {m.better if m.better != 'neither' else 'no direction'}"
              f"{' is better' if m.better != 'neither' else ''}). Fails: {m.fails}.")  # fmt: skip
