"""`thoughtmix noise`: the thinker `noise` on a text of yours, here or on any OpenAI-compatible endpoint."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.options import (
    EngineOptions,
    MaxNewTokens,
    Model,
    OutputOptions,
    SamplingOptions,
    SelectionOptions,
    option,
    read_text,
    with_options,
)
from thoughtmix.cli.output import print_json
from thoughtmix.cli.think import explore, finish
from thoughtmix.core.errors import InputError
from thoughtmix.core.types import ThoughtSet
from thoughtmix.noise.catalogue import Catalogue
from thoughtmix.noise.rewriting import NoiseOptions
from thoughtmix.thinkers.noise import NoiseThinker

if TYPE_CHECKING:
    from thoughtmix.engine.endpoint import EndpointEngine


@dataclass(frozen=True, kw_only=True)
class NoiseSampling(SamplingOptions):
    max_new_tokens: MaxNewTokens = 96


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """A model elsewhere."""

    endpoint: Annotated[
        str | None,
        option(
            "URL of a chat-completions server, --model its model (default: the first); "
            "key: THOUGHTMIX_API_KEY (OpenAI: or OPENAI_API_KEY)."
        ),
    ] = None
    concurrency: Annotated[int, option("Requests in flight at the endpoint.")] = 4
    timeout: Annotated[float, option("Seconds for one try at the endpoint.")] = 120.0
    retries: Annotated[int, option("Further tries after a failure of the endpoint.")] = 5

    def engine(self, model: str | None, stream: bool) -> EndpointEngine | None:
        """None without an endpoint. Raises `InputError`."""
        if self.endpoint is None:
            return None
        if self.retries < 0:
            raise InputError(f"--retries is {self.retries}.", "Pass 0 or more (--retries 5).")
        from thoughtmix.engine.endpoint import EndpointEngine
        from thoughtmix.models.endpoint import Endpoint

        server = Endpoint(
            self.endpoint,
            model,
            stream=stream,
            concurrency=self.concurrency,
            timeout=self.timeout,
            tries=self.retries + 1,
        )
        return EndpointEngine(server)


@app.command()
@with_options
def noise(
    idea: Annotated[str, typer.Argument(help="The text to disturb; - reads it from standard input.")] = "",
    prompt: Annotated[str | None, option("The question that the idea answers.")] = None,
    show_list: Annotated[bool, option("List the directions and stop.", "--list")] = False,
    *,
    selection: SelectionOptions,
    options: NoiseOptions,
    sampling: NoiseSampling,
    model: Model = None,
    endpoint: EndpointOptions,
    engine: EngineOptions,
    output: OutputOptions,
) -> int:
    """Disturb an idea on purpose: rewrite it in n directions at once."""
    if show_list:
        return _list(options, output.json)
    idea = read_text(idea, "The idea is empty.", 'Type one: thoughtmix noise "a cafe where people repair things"')
    output.check(sampling.n, selection)
    given = options.given() if prompt is not None else {"standalone": True, **options.given()}
    typed = NoiseThinker.Options(idea=idea, **given)
    elsewhere = endpoint.engine(model, output.live)
    pipeline = engine.pipeline(None if elsewhere else model, elsewhere)
    question = idea if prompt is None else prompt
    thoughts, code = explore(pipeline, question, NoiseThinker(), typed, sampling.settings(), output)
    failed = _failed(thoughts)
    finish(thoughts, output, selection)
    return code or failed


def _failed(thoughts: ThoughtSet) -> int:
    """Say which versions an endpoint failed to give: exit code 1."""
    failed = [t for t in thoughts if t.origin.get("error")]
    if not failed:
        return 0
    why = failed[0].origin["error"]
    print(
        f"thoughtmix: {len(failed)} of {len(thoughts)} versions failed, the first: {why}. "
        "Type the command again with --seed to make one alone.",
        file=sys.stderr,
    )
    return 1


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
