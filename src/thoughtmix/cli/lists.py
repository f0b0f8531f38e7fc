"""`thoughtmix thinkers` and `thoughtmix metrics`: what there is to choose from."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from typing import Annotated, Any

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import Json
from thoughtmix.cli.output import print_json
from thoughtmix.cli.renamed import flag
from thoughtmix.core.errors import ThoughtmixError, UnknownName
from thoughtmix.core.options import described, fields_own_first, type_text
from thoughtmix.thinkers.base import Thinker
from thoughtmix.thinkers.registry import get_thinker, thinker_names

Name = Annotated[str | None, typer.Argument(help="Of one alone, with everything about it.", show_default=False)]


@app.command()
@with_options
def thinkers(name: Name = None, json: Json = False) -> None:
    """List the ways to think; of one alone, its options."""
    found: dict[str, Thinker | ThoughtmixError] = {}
    for known in thinker_names() if name is None else [name]:
        try:
            found[known] = get_thinker(known)
        except ThoughtmixError as error:  # one broken plug-in must not hide the others
            if name is not None:
                raise
            found[known] = error
    if json:
        print_json({name: _as_json(thinker) for name, thinker in found.items()})
        return
    for known, thinker in found.items():
        said = str(thinker) if isinstance(thinker, ThoughtmixError) else thinker.summary
        print_entry(known, said)
        if name is not None and not isinstance(thinker, ThoughtmixError):
            _print_options(thinker)
    if name is None:
        print("\nTry one: thoughtmix think PROMPT --thinker list. What it takes: thoughtmix thinkers list")


def _print_options(thinker: Thinker) -> None:
    help = described(thinker.Options)
    for option, field in fields_own_first(thinker.Options).items():
        print(f"\n  {flag(option)} <{type_text(field)}>")
        print_entry("", help[option], indent=6)
    print(f'\nTry: thoughtmix think "Name a use for a brick." --thinker {thinker.name}')


def print_entry(name: str, says: str, indent: int = 14) -> None:
    """A name and what it is, the words beside it in lines that fit the terminal."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    lines = textwrap.wrap(says, max(20, width - indent), break_long_words=False, break_on_hyphens=False) or [""]
    head = name if len(name) < indent else f"{name}\n"
    print(f"{head:{indent}}{lines[0]}" if not head.endswith("\n") else f"{head}{'':{indent}}{lines[0]}")
    for line in lines[1:]:
        print(f"{'':{indent}}{line}")


def _as_json(thinker: Thinker | ThoughtmixError) -> dict[str, Any]:
    if isinstance(thinker, ThoughtmixError):
        return {"summary": str(thinker), "options": {}, "schema": {}}
    return {
        "summary": thinker.summary,
        "options": described(thinker.Options),
        "schema": thinker.Options.model_json_schema(),
    }


@app.command()
@with_options
def metrics(name: Name = None, json: Json = False) -> None:
    """List the metrics; of one alone, its span, when it fails and what it cannot see."""
    from thoughtmix.metrics import METRICS

    if name is not None and name not in METRICS:
        raise UnknownName("metric", name, METRICS)
    chosen = [m for m in METRICS.values() if name in {None, m.name}]
    if json:
        print_json([dataclasses.asdict(m) for m in chosen])
        return
    sent = [m for m in chosen if m.name.startswith(_SENT)] if name is None else []
    for m in chosen:
        if m in sent[1:]:
            continue
        better = "" if m.better == "neither" else f"; {m.better} is better"
        says = m.says if m not in sent else f"how far answers differ as what was asked of them does: {_list_of(sent)}"
        print_entry(m.name if m not in sent else f"{_SENT}...", f"{says}{better}", indent=18)
    if name is None:
        print("\nWhen one misleads: thoughtmix metrics vendi. To see them all: thoughtmix think PROMPT --details")
        return
    for head, said in (("span", m.span), ("fails", m.fails), ("cannot see", m.blind)):
        print_entry(f"  {head}", f"{said}.", indent=18)


_SENT = "transmission_"


def _list_of(sent: list[Any]) -> str:
    return ", ".join(m.name.removeprefix(_SENT) for m in sent)
