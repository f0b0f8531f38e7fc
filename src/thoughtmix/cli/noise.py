"""`thoughtmix noise`: the thinker `noise` on a text of yours, here or elsewhere."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import (
    MaxNewTokens,
    Model,
    OutputOptions,
    SamplingOptions,
    SelectionOptions,
    option,
    read_text,
)
from thoughtmix.cli.output import print_json
from thoughtmix.cli.remote import EngineOptions
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cli.think import explore, finish
from thoughtmix.noise.catalogue import Catalogue
from thoughtmix.noise.rewriting import NoiseOptions
from thoughtmix.thinkers.noise import NoiseThinker


@dataclass(frozen=True, kw_only=True)
class NoiseSampling(SamplingOptions):
    max_new_tokens: MaxNewTokens = 96


@app.command()
@with_options
def noise(
    idea: Annotated[str, typer.Argument(help="The text to disturb; - reads it from standard input.")] = "",
    prompt: Annotated[
        str | None, option("The question that the idea answers.", default="none, it stands for itself")
    ] = None,
    show_list: Annotated[bool, option("List the directions and stop.", "--list")] = False,
    *,
    selection: SelectionOptions,
    options: Annotated[NoiseOptions, "How it is disturbed"],
    sampling: NoiseSampling,
    model: Model = None,
    engine: EngineOptions,
    output: OutputOptions,
    report: Reporter,
) -> int:
    """Disturb an idea on purpose: rewrite it in n directions at once."""
    if show_list:
        return _list(options, output.json)
    idea = read_text(idea, "The idea is empty.", 'Type one: thoughtmix noise "a cafe where people repair things"')
    output.check()
    selection.check(sampling.n, output.measure)
    given = options.given() if prompt is not None else {"standalone": True, **options.given()}
    typed = NoiseThinker.Options(idea=idea, **given)
    pipeline = engine.pipeline(model, report, output.live)
    question = idea if prompt is None else prompt
    thoughts, code = explore(pipeline, question, NoiseThinker(), typed, sampling.settings(), output, report)
    finish(thoughts, output, report, selection)
    return code


def _list(options: NoiseOptions, json: bool) -> int:
    """The catalogue, a family after the other."""
    catalogue = Catalogue.load(*options.file)
    if json:
        print_json([dataclasses.asdict(d) for d in catalogue.values()])
        return 0
    for family in catalogue.families:
        print(family)
        for d in catalogue.values():
            if d.family == family:
                text = d.wording.get(options.language, next(iter(d.wording.values())))
                print(f"  {d.name:20} {text.get(options.strength, next(iter(text.values())))}")
    return 0
