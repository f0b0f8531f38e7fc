"""`thoughtmix think`, and what every command that thinks shares; `thoughtmix show`, to look at its thoughts again."""

from __future__ import annotations

import inspect
import itertools
import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.batch import BatchOptions, think_batch
from thoughtmix.cli.flags import given_options, parameters_of_options, with_options
from thoughtmix.cli.help import GroupedCommand
from thoughtmix.cli.options import (
    FORM,
    Model,
    OutputOptions,
    SamplingOptions,
    SelectionOptions,
    ShownOptions,
    option,
    read_text,
)
from thoughtmix.cli.output import show_set, write_file
from thoughtmix.cli.remote import EngineOptions
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cli.settings import bind
from thoughtmix.core.errors import InputError, Interrupted
from thoughtmix.core.request import OnStep, PromptLike, StepEvent
from thoughtmix.core.types import ThoughtSet
from thoughtmix.pipeline import AUTO, Pipeline
from thoughtmix.thinkers.base import Thinker
from thoughtmix.thinkers.call import typed_options
from thoughtmix.thinkers.registry import get_thinker, thinker_names


def _complete_thinker(incomplete: str) -> list[str]:
    return [name for name in thinker_names() if name.startswith(incomplete)]


class ThinkCommand(GroupedCommand):
    """`think` with an option for each option of the thinker that is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        thinker = self._thinker_named(ctx, args)
        if thinker is not None:
            full = typer.Typer(add_completion=False)
            full.command()(with_options(_think, _own_parameters(thinker)))
            made = typer.main.get_command(full)
            self.params, self.callback = made.params, made.callback
            bind(self, ("think",))
            for old, now in thinker.Options.old_names().items():  # of the config file
                if old in (ctx.default_map or {}):
                    ctx.default_map[now] = ctx.default_map.pop(old)
        return super().parse_args(ctx, args)

    def old_names(self, ctx: Any, args: Sequence[str]) -> dict[str, str]:
        thinker = self._thinker_named(ctx, args)
        return {**super().old_names(ctx, args), **(thinker.Options.old_names() if thinker is not None else {})}

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
            help="How to explore: see `thoughtmix thinkers`; auto chooses for the prompt.",
            autocompletion=_complete_thinker,
            metavar="NAME",
        ),
    ] = AUTO,
    option: Annotated[
        list[str] | None,
        option(
            "KEY=VALUE for the thinker itself; may be repeated.", "-o", "--option", default="none", metavar="KEY=VALUE"
        ),
    ] = None,
    system: Annotated[str | None, option("A system message before the prompt.", group=FORM, default="none")] = None,
    *,
    selection: SelectionOptions,
    sampling: SamplingOptions,
    model: Model = None,
    engine: EngineOptions,
    output: OutputOptions,
    many: BatchOptions,
    report: Reporter,
    **own: Any,
) -> int:
    """Turn one prompt, or each of a file, into n thoughts, in one batched pass. With --thinker NAME, that thinker's
    options are flags, too: thoughtmix think --thinker NAME --help."""
    many.check(prompt, output)
    if many.prompts is None:
        output.check()
    selection.check(sampling.n, output.measure)
    options: Any = _pairs(option or [])
    named: str | None = thinker
    if thinker != AUTO:
        kind = get_thinker(thinker)
        options = typed_options(kind, options, given_options(kind.Options, own))
    elif options:
        named = None  # options are of a thinker that is known: the one that the model is made for
    if many.prompts is not None:
        return think_batch(
            many,
            named,
            options,
            sampling.settings(),
            system=system,
            model=model,
            engine=engine,
            output=output,
            selection=selection,
            report=report,
        )
    if prompt is None:
        raise InputError("There is no prompt.", 'Type one: thoughtmix think "Name a fruit.", or --prompts FILE')
    said: Any = read_prompt(prompt)
    if system is not None:
        said = [{"role": "system", "content": system}, {"role": "user", "content": said}]
    pipeline = engine.pipeline(model, report, output.live)
    thoughts, code = explore(pipeline, said, named, options, sampling.settings(), output, report)
    if is_file(prompt):  # told where it went well: an error is one line
        report.note(f"thoughtmix: {prompt} is a file; what stands in it: thoughtmix think - < {shlex.quote(prompt)}")
    finish(thoughts, output, report, selection)
    return code


app.command("think", cls=ThinkCommand)(with_options(_think))


def is_file(prompt: str) -> bool:
    """Whether a prompt names a file here, whose content was meant perhaps."""
    try:
        return len(prompt.split()) == 1 and Path(prompt).is_file()
    except (OSError, ValueError):
        return False


def read_prompt(prompt: str) -> str:
    """The argument, or standard input. Raises `InputError`."""
    return read_text(prompt, "The prompt is empty.", 'Type a prompt: thoughtmix think "Name a fruit."')


def explore(
    pipeline: Pipeline,
    prompt: PromptLike,
    thinker: str | Thinker | None,
    options: Any,
    settings: dict[str, Any],
    output: OutputOptions,
    report: Reporter,
    words: Callable[[StepEvent], str] | None = None,
    again: str = "",
) -> tuple[ThoughtSet, int]:
    """Think, in view where that is wanted.

    Args:
        report: Says what goes on.
        words: How far a step has come; None: its tokens, or on a terminal the thoughts while they grow.
        again: What to type after Ctrl-C.

    Returns:
        The thoughts, and the exit code. Stopped by Ctrl-C: what was complete, which nothing has measured.
    """
    settings = {**settings, "thinker": thinker, "options": options, "measure": output.measure}
    try:
        with report.work("Loading the model"):
            _ = pipeline.engine
        if output.live and words is None:
            from rich.console import Console

            from thoughtmix.report.text import LiveView

            with LiveView(Console(), settings["n"]) as view:
                made = pipeline(prompt, on_step=view.update, **settings)
        else:
            with report.work("Preparing the model, reading the prompt") as say:
                made = pipeline(prompt, on_step=_saying(say, words or _tokens, output.measure), **settings)
        return _told(made, report)
    except Interrupted as interrupted:
        report.warn(f"{interrupted.message} {again or interrupted.hint}")
        return interrupted.thoughts, interrupted.exit_code


def _saying(say: Callable[[str], None], words: Callable[[StepEvent], str], measure: bool) -> OnStep:
    """What follows the steps, and says after the last what comes then."""

    def step(event: StepEvent) -> None:
        ended = measure and bool(event.finished) and all(event.finished)
        said = words(event)  # which may do more than speak
        say("Measuring how different they are" if ended else said)

    return step


def _tokens(event: StepEvent) -> str:
    done = f", {sum(event.finished)} of {len(event.finished)} done" if any(event.finished) else ""
    return f"Writing: {event.done:,} of at most {event.total:,} tokens{done}"


def _told(thoughts: ThoughtSet, report: Reporter) -> tuple[ThoughtSet, int]:
    """Say what an endpoint did not do as it was asked, and what it cost. Exit code 1 where it failed for some."""
    if "warning" in thoughts.run:
        report.note(f"thoughtmix: {thoughts.run['warning']} Name a model that knows it (--model).")
    facts = thoughts.run.get("endpoint", {})
    left_out = [name for name in facts.get("left_out", ()) if name not in {"stream_options", "logprobs"}]
    if left_out:
        report.note(f"thoughtmix: {thoughts.model} takes no {', '.join(left_out)}: left out.")
    if "cost_usd" in facts:
        tokens = f"{facts['prompt_tokens']} tokens read, {facts['completion_tokens']} written"
        report.note(f"thoughtmix: {tokens}, ${facts['cost_usd']:.6f}.")
    failed = [t for t in thoughts if t.origin.get("error")]
    if not failed:
        return thoughts, 0
    report.warn(
        f"{len(failed)} of {len(thoughts)} thoughts failed, the first: {failed[0].origin['error']}. "
        f"Type the command again with -n 1 --seed {failed[0].seed} to make it alone."
    )
    return thoughts, 1


def finish(
    thoughts: ThoughtSet, output: ShownOptions, report: Reporter, selection: SelectionOptions | None = None
) -> None:
    """Show the thoughts, or print them as JSON and nothing else, and write the files that are wanted."""
    from thoughtmix.report.html import page

    if selection is not None and thoughts.distances:  # a set that was stopped has none
        thoughts = selection.of(thoughts)
    show_or_print(thoughts, output, report)
    write_file(output.html, lambda: page(thoughts), report)


def show_or_print(thoughts: ThoughtSet, output: ShownOptions, report: Reporter) -> None:
    """The set for people, or as JSON; and as JSON into --out."""
    if output.json:
        print(thoughts.to_json())
    elif output.prints:
        show_set(thoughts, output.details, hints=not report.quiet)
    write_file(output.out, thoughts.to_json, report)


def _own_parameters(thinker: Thinker) -> list[inspect.Parameter]:
    """Its options that have no name of a setting, nor of a group of settings: those are for `--option`."""
    taken = {*inspect.signature(with_options(_think)).parameters, *inspect.signature(_think).parameters}
    head = f"What the thinker {thinker.name} takes"
    return [p for p in parameters_of_options(thinker.Options, head) if p.name not in taken]


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
    file: Annotated[Path, typer.Argument(help="A thought set: what --out or --json of `thoughtmix think` wrote.")],
    *,
    selection: SelectionOptions,
    output: ShownOptions,
    report: Reporter,
) -> None:
    """Print a saved thought set, the most different of it, or make a page of it."""
    selection.check(None)
    output.check()
    finish(selection.of(ThoughtSet.from_json(file)), output, report)
