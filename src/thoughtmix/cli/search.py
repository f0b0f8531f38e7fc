"""`thoughtmix search`: grow a tree of partial thoughts, keep n different good ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.cli.output import check_folder
from thoughtmix.core.errors import InputError, Interrupted
from thoughtmix.thinkers.search import SearchThinker, build

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.search.mcts import TreeSearch
    from thoughtmix.search.tree import Node


@app.command()
def search(
    prompt: Annotated[str, typer.Argument(help="What to think about; - reads it from standard input.")] = "",
    n: Annotated[int, typer.Option("-n", "--n", help="How many thoughts: different good leaves.")] = 4,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Tokens drawn in all, those of a resumed search included.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Stop growing in time to answer after so long.")] = None,
    evaluators: Annotated[
        str,
        typer.Option(help="What is good, with weights: likelihood, relevance, novelty, length, repetition, judge."),
    ] = "likelihood=1,repetition=1",
    judge: Annotated[str | None, typer.Option(help="A model for the evaluator judge, named as --model.")] = None,
    rubric: Annotated[str, typer.Option(help="What that judge is asked about an answer: a yes-or-no question.")] = "",
    proposal: Annotated[str, typer.Option(help="What draws: sampling or mixture.")] = "sampling",
    creativity: Annotated[
        float | None, typer.Option(help="Of the proposal: 0 is deterministic, 1 the default.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Keep tokens this likely beside the likeliest.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest thought, in tokens.")] = 64,
    step: Annotated[int, typer.Option(help="Tokens of a node.")] = 8,
    width: Annotated[int, typer.Option(help="Children drawn at a leaf.")] = 4,
    batch: Annotated[int, typer.Option(help="Leaves that are grown at once.")] = 4,
    rollouts: Annotated[bool, typer.Option(help="Judge a child by one continuation of it to the end.")] = False,
    exploration: Annotated[float, typer.Option(help="Constant of PUCT: more looks wider.")] = 0.5,
    apart: Annotated[str, typer.Option(help="How differences are measured: words or embedding.")] = "words",
    seed: Annotated[int, typer.Option(help="Of the whole tree.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End a thought before this text; may be repeated.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    model: Annotated[
        str | None, typer.Option(help="A folder or a Hugging Face id. Default: SmolLM2-135M-Instruct.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    measure: Annotated[bool, typer.Option(help="Embed the thoughts and measure them.")] = True,
    tree: Annotated[bool, typer.Option(help="Draw the tree.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the thought set as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write the tree and the thoughts as one page here.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the tree here, to be resumed.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with a saved tree; everything but limits and -n is taken from it.")
    ] = None,
) -> int:
    """Search a tree of partial thoughts for n different good ones."""
    if prompt == "-":
        prompt = sys.stdin.read()
    body: dict[str, Any] | None = None
    asked: dict[str, Any] = {
        "prompt": prompt, "model": model, "dtype": dtype, "device": device, "judge": judge, "rubric": rubric,
        "settings": {
            "creativity": creativity, "temperature": temperature, "min_p": min_p, "max_new_tokens": max_new_tokens,
            "seed": seed, "stop": list(stop or []), "raw": raw, "step": step, "width": width, "batch": batch,
            "rollouts": rollouts, "exploration": exploration, "evaluators": evaluators, "proposal": proposal,
            "apart": apart,
        },
    }  # fmt: skip
    if resume is not None:
        from thoughtmix.search.saved import read_saved

        body = read_saved(resume)
        asked = _asked(body, prompt, resume)
    _check(asked, n, budget_tokens, seconds, [html, save])
    grown = _Grown(asked, body, save, sys.stderr.isatty() and not json)
    limits = {k: v for k, v in (("tokens", budget_tokens), ("seconds", seconds)) if v is not None}
    code = 0
    try:
        thoughts = _run(asked, grown, n, limits, measure)
    except Interrupted as interrupted:
        thoughts, code = interrupted.thoughts, interrupted.exit_code
        print(f"thoughtmix: {interrupted}", file=sys.stderr)
    _write(thoughts, grown, asked, tree, json, html)
    for path in (html, save):
        if path is not None and not json:
            print(f"Wrote {path}", file=sys.stderr)
    return code


def _asked(body: dict[str, Any], prompt: str, file: Path) -> dict[str, Any]:
    asked = body.get("asked")
    if not isinstance(asked, dict) or not {"prompt", "settings"} <= set(asked):
        raise InputError(f"{file} was not saved by this command.", "Write one with: thoughtmix search PROMPT --save F")
    if prompt and prompt != asked["prompt"]:
        raise InputError("The saved search has another prompt.", "Leave the prompt out, or search anew.")
    return asked


def _check(asked: dict[str, Any], n: int, tokens: int | None, seconds: float | None, files: list[Path | None]) -> None:
    """Refuse what cannot work before a model is loaded for it."""
    from thoughtmix.core.request import Request
    from thoughtmix.search.evaluators import parse_weights
    from thoughtmix.search.mcts import Limits

    settings = asked["settings"]
    if not asked["prompt"].strip():
        raise InputError("The prompt is empty.", 'Type a prompt: thoughtmix search "Name a fruit."')
    Request(n=n, max_new_tokens=settings["max_new_tokens"], creativity=settings["creativity"], seed=settings["seed"])
    Limits(1 if tokens is None else tokens, seconds)
    if "judge" in parse_weights(settings["evaluators"]) and asked["judge"] is None:
        raise InputError("The evaluator judge needs a model.", "Name one: --judge MODEL")
    check_folder(*files)


class _Grown(SearchThinker):
    """The thinker, with what the command line adds: going on, saving, and the tree for drawing."""

    def __init__(self, asked: dict[str, Any], body: dict[str, Any] | None, save: Path | None, talk: bool) -> None:
        self.asked, self.body, self.file, self.talk = asked, body, save, talk
        self.search: TreeSearch | None = None
        self.nodes: list[Node] = []

    def begin(self, engine: Any, prompt: Any, request: Any) -> TreeSearch:
        from thoughtmix.search.saved import restore

        self.search = build(engine, prompt, request)
        if self.body is not None:
            restore(self.search, self.body)
        return self.search

    def explored(self, search: TreeSearch) -> None:
        from thoughtmix.search.saved import save

        if self.file is not None:
            save(search, self.file, self.asked)

    def picked(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def see(self, event: Any) -> None:
        if self.talk and self.search is not None:
            s = self.search
            line = f"{event.done} of {event.total} tokens, {len(s.tree)} nodes, {len(s.tree.complete())} complete"
            print(f"\r{line:<78}", end="", file=sys.stderr, flush=True)


def _run(asked: dict[str, Any], grown: _Grown, n: int, limits: dict[str, Any], measure: bool) -> ThoughtSet:
    from thoughtmix.api import Pipeline
    from thoughtmix.cli.output import progress

    pipeline = Pipeline(
        asked["model"], dtype=asked["dtype"], device=asked["device"], judge=asked["judge"], on_progress=progress()
    )
    settings = {**asked["settings"], "stop": tuple(asked["settings"]["stop"])}
    options = {name: settings.pop(name) for name in [*settings] if name in grown.Options.model_fields}
    rubric = {"rubric": asked["rubric"]} if asked["rubric"] else {}
    try:
        return pipeline(
            asked["prompt"],
            n,
            grown,
            options={**options, **rubric, **limits},
            measure=measure,
            on_step=grown.see,
            **settings,
        )
    finally:
        if grown.talk and grown.search is not None:
            print(file=sys.stderr)  # the line that `see` wrote over and over


def _write(
    thoughts: ThoughtSet, grown: _Grown, asked: dict[str, Any], tree: bool, json: bool, html: Path | None
) -> None:
    from thoughtmix.cli.output import show
    from thoughtmix.core.types import write_whole
    from thoughtmix.report import search as report

    found = grown.search
    if html is not None and found is not None:
        write_whole(html, report.page(found, grown.nodes, thoughts, asked))
    if json:
        print(thoughts.to_json())
        return
    show(thoughts)
    if found is None:
        return
    if tree and sys.stdout.isatty():
        from rich.console import Console

        Console().print(report.drawn_tree(found, grown.nodes))
    elif tree:
        print(f"\n{report.plain_tree(found, grown.nodes)}\n")
    print(report.summary(found))
