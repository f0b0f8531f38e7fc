"""`thoughtmix think`, and what every command that thinks shares; `thoughtmix show`, to look at its thoughts again."""

from __future__ import annotations

import inspect
import itertools
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from thoughtmix.cli.app import app
from thoughtmix.cli.batch import BatchOptions, think_batch
from thoughtmix.cli.options import (
    Model,
    OutputOptions,
    SamplingOptions,
    SelectionOptions,
    given_options,
    option,
    parameters_of_options,
    read_text,
    with_options,
)
from thoughtmix.cli.output import is_quiet, note, show_set, write_page
from thoughtmix.cli.remote import EngineOptions
from thoughtmix.cli.settings import bind
from thoughtmix.core.errors import InputError, Interrupted
from thoughtmix.core.request import OnStep, PromptLike
from thoughtmix.core.types import ThoughtSet
from thoughtmix.pipeline import AUTO, Pipeline
from thoughtmix.thinkers.base import Thinker
from thoughtmix.thinkers.call import typed_options
from thoughtmix.thinkers.registry import get_thinker, thinker_names


def _complete_thinker(incomplete: str) -> list[str]:
    return [name for name in (AUTO, *thinker_names()) if name.startswith(incomplete)]


class ThinkCommand(TyperCommand):
    """`think` with an option for each option of the thinker that is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        thinker = self._thinker_named(ctx, args)
        if thinker is not None:
            full = typer.Typer(add_completion=False)
            full.command()(with_options(_think, _own_parameters(thinker)))
            made = typer.main.get_command(full)
            self.params, self.callback = made.params, made.callback
            bind(self, ("think",))
        return super().parse_args(ctx, args)

    def _thinker_named(self, ctx: Any, args: Sequence[str]) -> Thinker | None:
        """The thinker of -t or --thinker, of the environment or the config file. Raises `UnknownName`."""
        words = args[: args.index("--")] if "--" in args else args
        names = [after for word, after in itertools.pairwise(words) if word in {"-t", "--thinker"}]
        names += [word.removeprefix("--thinker=") for word in words if word.startswith("--thinker=")]
        names += [word[2:] for word in words if word.startswith("-t") and word != "-t"]
        if not names:
            option = next(p for p in self.params if p.name == "thinker")
            names = [name for name in (option.resolve_envvar_value(ctx), ctx.lookup_default("thinker")) if name][:1]
        return get_thinker(names[-1]) if names and names[-1] != AUTO else None


def _think(
    prompt: Annotated[
        str | None, typer.Argument(help="What to think about; - reads it from standard input.", show_default=False)
    ] = None,
    thinker: Annotated[
        str,
        typer.Option(
            "-t",
            "--thinker",
            help="How to explore: see `thoughtmix thinkers`; auto: what the model is made for.",
            autocompletion=_complete_thinker,
        ),
    ] = "auto",
    option: Annotated[
        list[str] | None, option("KEY=VALUE for the thinker itself; may be repeated.", "-o", "--option")
    ] = None,
    system: Annotated[str | None, option("A system message before the prompt.")] = None,
    *,
    selection: SelectionOptions,
    sampling: SamplingOptions,
    model: Model = None,
    engine: EngineOptions,
    output: OutputOptions,
    many: BatchOptions,
    **own: Any,
) -> int:
    """Turn one prompt, or each of a file, into n thoughts, in one batched pass. With --thinker NAME, that thinker's
    options are flags, too: thoughtmix think --thinker NAME --help."""
    many.check(prompt, output)
    output.check(sampling.n, selection)
    options: Any = _pairs(option or [])
    if thinker != AUTO:
        kind = get_thinker(thinker)
        options = typed_options(kind, options, given_options(kind.Options, own))
    if many.prompts is not None:
        return think_batch(
            many,
            thinker,
            options,
            sampling.settings(),
            system=system,
            model=model,
            engine=engine,
            output=output,
            selection=selection,
        )
    if prompt is None:
        raise InputError("There is no prompt.", 'Type one: thoughtmix think "Name a fruit.", or --prompts FILE')
    said: Any = read_prompt(prompt)
    if system is not None:
        said = [{"role": "system", "content": system}, {"role": "user", "content": said}]
    thoughts, code = explore(engine.pipeline(model, output.live), said, thinker, options, sampling.settings(), output)
    finish(thoughts, output, selection)
    return code


app.command("think", cls=ThinkCommand)(with_options(_think))


def read_prompt(prompt: str) -> str:
    """The argument, or standard input. Raises `InputError`."""
    return read_text(prompt, "The prompt is empty.", 'Type a prompt: thoughtmix think "Name a fruit."')


def explore(
    pipeline: Pipeline,
    prompt: PromptLike,
    thinker: str | Thinker,
    options: Any,
    settings: dict[str, Any],
    output: OutputOptions,
    on_step: OnStep | None = None,
    again: str = "",
) -> tuple[ThoughtSet, int]:
    """Think, in view where that is wanted: on_step, else the thoughts while they grow. again: to type after Ctrl-C.

    Returns:
        The thoughts, and the exit code. Stopped by Ctrl-C: what was complete, which nothing has measured.
    """
    settings = {**settings, "thinker": thinker, "options": options, "measure": output.measure}
    try:
        with _loading():
            _ = pipeline.engine
        if on_step is not None or not output.live:
            return _told(pipeline(prompt, on_step=on_step, **settings))
        from rich.console import Console

        from thoughtmix.report.text import LiveView

        with LiveView(Console(), settings["n"]) as view:
            made = pipeline(prompt, on_step=view.update, **settings)
        return _told(made)
    except Interrupted as interrupted:
        print(f"thoughtmix: {interrupted.message} {again or interrupted.hint}", file=sys.stderr)
        return interrupted.thoughts, interrupted.exit_code


def _told(thoughts: ThoughtSet) -> tuple[ThoughtSet, int]:
    """Say what an endpoint did not do as it was asked, and what it cost. Exit code 1 where it failed for some."""
    if "warning" in thoughts.run:
        note(f"thoughtmix: {thoughts.run['warning']} Name a model that knows it (--model).")
    facts = thoughts.run.get("endpoint", {})
    left_out = [name for name in facts.get("left_out", ()) if name not in {"stream_options", "logprobs"}]
    if left_out:
        note(f"thoughtmix: {thoughts.model} takes no {', '.join(left_out)}: left out.")
    if "cost_usd" in facts:
        tokens = f"{facts['prompt_tokens']} tokens read, {facts['completion_tokens']} written"
        note(f"thoughtmix: {tokens}, ${facts['cost_usd']:.6f}.")
    failed = [t for t in thoughts if t.origin.get("error")]
    if not failed:
        return thoughts, 0
    print(
        f"thoughtmix: {len(failed)} of {len(thoughts)} thoughts failed, the first: {failed[0].origin['error']}. "
        f"Type the command again with -n 1 --seed {failed[0].seed} to make it alone.",
        file=sys.stderr,
    )
    return thoughts, 1


def finish(thoughts: ThoughtSet, output: OutputOptions, selection: SelectionOptions | None = None) -> None:
    """Write the page if one is wanted, and show the thoughts, or print them as JSON and nothing else."""
    if selection is not None and thoughts.distances:  # a set that was stopped has none
        thoughts = selection.of(thoughts)
    if output.html is not None:
        write_page(output.html, thoughts)
    if output.json:
        print(thoughts.to_json())
        return
    show_set(thoughts)
    if output.html is not None:
        note(f"Wrote {output.html}")


def _loading() -> Any:
    """A moving status line on a terminal."""
    if not sys.stderr.isatty() or is_quiet():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("loading")


def _own_parameters(thinker: Thinker) -> list[inspect.Parameter]:
    """Its options that have no name of a setting, nor of a group of settings: those are for `--option`."""
    taken = {*inspect.signature(with_options(_think)).parameters, *inspect.signature(_think).parameters}
    return [p for p in parameters_of_options(thinker.Options) if p.name not in taken]


def _pairs(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value that reads as JSON is taken as such (3, 0.5, true), any other as text."""
    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--option {pair!r} is not KEY=VALUE.", "Write --option name=value.")
        try:
            out[key] = json.loads(value)
        except ValueError:
            out[key] = value
    return out


@app.command()
@with_options
def show(
    file: Annotated[Path, typer.Argument(help="A thought set saved with `thoughtmix think --json`.")],
    html: Annotated[Path | None, option("Write one self-contained page here instead.")] = None,
    *,
    selection: SelectionOptions,
) -> None:
    """Print a saved thought set, or make a page of it."""
    selection.check(None)
    thoughts = selection.of(ThoughtSet.from_json(file))
    if html is None:
        show_set(thoughts)
        return
    write_page(html, thoughts)
    print(f"Wrote {html}", file=sys.stderr)
