"""`thoughtmix noise`: disturb an idea in n directions, here or on any OpenAI-compatible endpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.cli.output import check_folder, finish
from thoughtmix.core.errors import InputError, Interrupted

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.methods import SemanticNoiser


@app.command()
def noise(
    idea: Annotated[str, typer.Argument(help="The text to disturb; - reads it from standard input.")] = "",
    n: Annotated[int, typer.Option("-n", "--n", help="How many new versions.")] = 8,
    families: Annotated[str, typer.Option(help="style, angle, constraint, creative, with commas; default: all.")] = "",
    directions: Annotated[str, typer.Option(help="Names with commas (see --list); poem+critic: both at once.")] = "",
    strength: Annotated[str, typer.Option(help="precise, vague or chaotic.")] = "precise",
    language: Annotated[str, typer.Option(help="Of the instructions: en or fr.")] = "en",
    order: Annotated[
        str, typer.Option(help="families: they take turns; different: the n most different instructions first.")
    ] = "families",
    tokens: Annotated[float | None, typer.Option(help="Share of the words that become holes to fill in.")] = None,
    mask: Annotated[str, typer.Option(help="Which words: random, or span (stretches).")] = "random",
    file: Annotated[list[str] | None, typer.Option(help="TOML with directions of your own; may be repeated.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The question that the idea answers.")] = None,
    creativity: Annotated[float | None, typer.Option(help="0 leaves the idea as it is, 1 the default.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; default 0.7 x creativity.")] = None,
    seed: Annotated[int, typer.Option(help="Version i has seed + i - 1 and can be made again alone by it.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest version, in tokens.")] = 96,
    model: Annotated[
        str | None, typer.Option(help="As in `think`; with --endpoint, its name there (default: the first).")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="URL of a chat-completions server; key: THOUGHTMIX_API_KEY (OpenAI: or OPENAI_API_KEY)."),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests in flight at the endpoint.")] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds for one try at the endpoint.")] = 120.0,
    retries: Annotated[int, typer.Option(help="Further tries after a failure of the endpoint.")] = 5,
    select: Annotated[int | None, typer.Option(help="Show only the k most different versions.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the directions and stop.")] = False,
    measure: Annotated[bool, typer.Option(help="Embed the versions and measure them.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the thought set as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained page here.")] = None,
) -> int:
    """Disturb an idea on purpose: rewrite it in n directions at once."""
    if show_list:
        return _list(file or [], strength, language, json)
    if idea == "-":
        idea = sys.stdin.read()
    if not idea.strip():
        raise InputError("The idea is empty.", 'Type one: thoughtmix noise "a cafe where people repair things"')
    if select is not None and not (1 <= select <= n and measure):
        raise InputError(f"Cannot select {select} of {n} versions.", f"Pass --select 1 to {n}, without --no-measure.")
    check_folder(html)
    settings: dict[str, Any] = {
        "families": families, "directions": directions, "strength": strength, "language": language, "order": order,
        "tokens": tokens, "mask": mask, "prompt": prompt, "creativity": creativity, "temperature": temperature,
        "seed": seed, "max_new_tokens": max_new_tokens, "measure": measure,
    }  # fmt: skip
    noiser = _noiser(model, endpoint, file or [], concurrency, timeout, retries)
    code = 0
    try:
        thoughts = _watched(noiser, idea, n, settings, sys.stdout.isatty() and not json)
    except Interrupted as interrupted:
        thoughts, code, select = interrupted.thoughts, interrupted.exit_code, None
        print(f"thoughtmix: {interrupted}", file=sys.stderr)
    failed = [t for t in thoughts if t.origin.get("error")]
    if failed:
        print(f"thoughtmix: {len(failed)} of {n} versions failed, the first: {failed[0].origin['error']}. "
              "Type the command again with --seed to make one alone.", file=sys.stderr)  # fmt: skip
        code = code or 1
    if select is not None:
        thoughts = thoughts.select(select)
    finish(thoughts, json, html)
    return code


def _watched(noiser: SemanticNoiser, idea: str, n: int, settings: dict[str, Any], live: bool) -> ThoughtSet:
    """On a terminal, the versions can be seen growing."""
    if not live or n < 1:
        return noiser.disturb(idea, n, **settings)
    from rich.console import Console

    from thoughtmix.report.text import LiveView

    if noiser.endpoint is None:
        _ = noiser.model  # its progress is said before the live view begins
    else:
        noiser.endpoint.stream = True
    with LiveView(Console(), n) as view:
        return noiser.disturb(idea, n, on_step=view.update, **settings)


def _noiser(
    model: str | None, endpoint: str | None, files: list[str], concurrency: int, timeout: float, retries: int
) -> SemanticNoiser:
    from thoughtmix.cli.output import progress
    from thoughtmix.methods import SemanticNoiser

    if endpoint is None:
        return SemanticNoiser(model, files=files, on_progress=progress())
    if retries < 0:
        raise InputError(f"--retries is {retries}.", "Pass 0 or more (--retries 5).")
    from thoughtmix.models.endpoint import Endpoint

    server = Endpoint(endpoint, model, concurrency=concurrency, timeout=timeout, tries=retries + 1)
    return SemanticNoiser(None, server, files=files, on_progress=progress())


def _list(files: list[str], strength: str, language: str, json: bool) -> int:
    """The catalogue, a family after the other."""
    import dataclasses

    from thoughtmix.noise.catalogue import Catalogue, check

    catalogue = Catalogue.load(*files)
    check(strength, language)
    if json:
        import json as codec

        print(codec.dumps([dataclasses.asdict(d) for d in catalogue.values()], ensure_ascii=False, indent=2))
        return 0
    for family in catalogue.families:
        print(family)
        for d in catalogue.values():
            if d.family == family:
                text = d.wording.get(language, next(iter(d.wording.values())))
                print(f"  {d.name:20} {text.get(strength, next(iter(text.values())))}")
    return 0
