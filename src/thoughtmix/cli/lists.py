"""`thoughtmix thinkers` and `thoughtmix metrics`: what there is to choose from."""

from __future__ import annotations

import dataclasses
from typing import Any

from thoughtmix.cli.app import app
from thoughtmix.cli.options import Json
from thoughtmix.cli.output import print_json
from thoughtmix.core.errors import ThoughtmixError
from thoughtmix.core.options import described, fields_own_first, type_text
from thoughtmix.thinkers.base import Thinker
from thoughtmix.thinkers.registry import get_thinker, thinker_names


@app.command()
def thinkers(json: Json = False) -> None:
    """List the ways to explore, with their options."""
    found: dict[str, Thinker | ThoughtmixError] = {}
    for name in thinker_names():
        try:
            found[name] = get_thinker(name)
        except ThoughtmixError as error:  # one broken plug-in must not hide the others
            found[name] = error
    if json:
        print_json({name: _as_json(thinker) for name, thinker in found.items()})
        return
    for name, thinker in found.items():
        print(f"{name:10}  {thinker if isinstance(thinker, ThoughtmixError) else thinker.summary}")
        if not isinstance(thinker, ThoughtmixError):
            help = described(thinker.Options)
            for option, field in fields_own_first(thinker.Options).items():
                print(f"{'':10}    --option {option}=<{type_text(field)}>  {help[option]}")


def _as_json(thinker: Thinker | ThoughtmixError) -> dict[str, Any]:
    if isinstance(thinker, ThoughtmixError):
        return {"summary": str(thinker), "options": {}, "schema": {}}
    return {
        "summary": thinker.summary,
        "options": described(thinker.Options),
        "schema": thinker.Options.model_json_schema(),
    }


@app.command()
def metrics(json: Json = False) -> None:
    """List the metrics: what each says, which way is better, when it fails, what it cannot see."""
    from thoughtmix.metrics import METRICS

    if json:
        print_json([dataclasses.asdict(m) for m in METRICS.values()])
        return
    for m in METRICS.values():
        better = "no direction" if m.better == "neither" else f"{m.better} is better"
        print(f"{m.name:15} {m.says} ({m.span}, {better}). Fails: {m.fails}. Cannot see: {m.blind}.")
