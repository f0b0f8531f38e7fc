"""`thoughtmix search`: the thinker `search`, whose tree can be drawn, saved and gone on with."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import Count, Model, OutputOptions, SamplingOptions, option
from thoughtmix.cli.output import check_files, print_either, write_file
from thoughtmix.cli.remote import EngineOptions
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cli.think import explore, read_prompt, show_or_print
from thoughtmix.core.errors import InputError
from thoughtmix.core.options import parse_options
from thoughtmix.thinkers.search import SearchThinker, build

if TYPE_CHECKING:
    from thoughtmix.core.request import Prompt, Request, StepEvent
    from thoughtmix.core.types import ThoughtSet
    from thoughtmix.engine.engine import Engine
    from thoughtmix.search.mcts import TreeSearch
    from thoughtmix.search.tree import Node

_LIMITS = ("budget", "seconds")
_NAME = (str, type(None))
_SAVE_EVERY = 5.0  # seconds


@dataclass(frozen=True, kw_only=True)
class SearchSampling(SamplingOptions):
    n: Count = 4
    seed: Annotated[int, option("Of the whole tree.", "-s", "--seed")] = 0


@dataclass(frozen=True, kw_only=True)
class TreeOptions:
    """What is done with the tree."""

    GROUP: ClassVar[str] = "The tree"
    tree: Annotated[bool, option("Draw the tree.")] = True
    save: Annotated[
        Path | None, option("Write the tree here while it grows, to be resumed.", default="it is not kept")
    ] = None
    resume: Annotated[
        Path | None,
        option("Go on with a saved tree; everything but limits and -n is taken from it.", default="a new tree"),
    ] = None


@app.command()
@with_options
def search(
    prompt: Annotated[str, typer.Argument(help="What to think about; - reads it from standard input.")] = "",
    *,
    options: Annotated[SearchThinker.Options, "How the tree grows"],
    sampling: SearchSampling,
    model: Model = None,
    engine: EngineOptions,
    tree: TreeOptions,
    output: OutputOptions,
    report: Reporter,
) -> int:
    """Search a tree of partial thoughts for n different good ones."""
    from thoughtmix.search.evaluators import parse_weights

    body, given = None, sampling.settings()
    if tree.resume is not None:
        body, asked = _saved(tree.resume, prompt)
    else:
        asked = _asked(read_prompt(prompt), model, engine, given, options)
    settings, options = _settings(asked, sampling.n, options)
    engine = replace(engine, dtype=asked["dtype"], device=asked["device"], judge=asked["judge"])
    output.check()
    check_files(tree.save)
    judged = engine.judge or engine.judge_endpoint
    if "judge" in parse_weights(options.evaluators) and not judged:  # before a model is loaded for it
        raise InputError("The evaluator judge needs a model.", "Name one: --judge MODEL, or --judge-endpoint URL")
    thinker = SavedSearch(asked, body, tree.save)
    pipeline = engine.pipeline(asked["model"], report)
    again = "" if tree.save is None else f"Go on with it: thoughtmix search --resume {shlex.quote(str(tree.save))}"
    thoughts, code = explore(
        pipeline, asked["prompt"], thinker, options, settings, output, report, thinker.words, again
    )
    _write(thoughts, thinker, tree.tree, output, report)
    if tree.save is not None:
        report.note(f"Wrote {tree.save}")
    return code


def _asked(
    prompt: str, model: str | None, engine: EngineOptions, settings: dict[str, Any], options: SearchThinker.Options
) -> dict[str, Any]:
    """What a saved tree needs to be asked for again: everything but limits and n."""
    settings = {name: value for name, value in settings.items() if name != "n"}
    left = {*_LIMITS, "rubric"}
    if engine.gives_text_alone:  # these have other defaults there
        left |= {"evaluators", "step"} - options.model_fields_set
    return {
        "prompt": prompt,
        "model": model,
        "dtype": engine.dtype,
        "device": engine.device,
        "judge": engine.judge,
        "rubric": options.rubric,
        "settings": {**settings, **options.model_dump(mode="json", exclude=left)},
    }


def _saved(file: Path, prompt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The saved search, and what was asked then. Raises `InputError`."""
    from thoughtmix.search.saved import read_saved

    body = read_saved(file)
    asked = body.get("asked")
    kinds: dict[str, Any] = {
        "prompt": str,
        "settings": dict,
        "rubric": str,
        "dtype": str,
        "device": str,
        "model": _NAME,
        "judge": _NAME,
    }
    if not isinstance(asked, dict) or not all(n in asked and isinstance(asked[n], kind) for n, kind in kinds.items()):
        raise InputError(f"{file} was not saved by this command.", "Write one with: thoughtmix search PROMPT --save F")
    if prompt and prompt != asked["prompt"]:
        raise InputError("The saved search has another prompt.", "Leave the prompt out, or search anew.")
    return body, asked


def _settings(
    asked: dict[str, Any], n: int, limits: SearchThinker.Options
) -> tuple[dict[str, Any], SearchThinker.Options]:
    """The settings of the call and the thinker's options: those that were asked for, within limits of today."""
    names = SearchThinker.Options.model_fields
    given = {name: value for name, value in asked["settings"].items() if name in names}
    given |= {"rubric": asked["rubric"], **{name: getattr(limits, name) for name in _LIMITS}}
    settings = {name: value for name, value in asked["settings"].items() if name not in names}
    for name, value in settings.items():
        if name != "stop" and not isinstance(value, (str, int, float, type(None))):
            raise InputError(
                f"The saved search has no single {name}: {str(value)[:80]}.", "Pass another file (--resume)."
            )
    return {**settings, "n": n}, parse_options(SearchThinker.Options, given, "search")


class SavedSearch(SearchThinker):
    """The thinker, with what the command line adds: going on, saving, and the tree for drawing."""

    def __init__(self, asked: dict[str, Any], body: dict[str, Any] | None, file: Path | None) -> None:
        self.asked, self.body, self.file = asked, body, file
        self.search: TreeSearch | None = None
        self.nodes: list[Node] = []
        self._saves_at = time.monotonic() + _SAVE_EVERY

    def begin(self, engine: Engine, prompt: Prompt, request: Request) -> TreeSearch:
        from thoughtmix.search.saved import restore

        self.search = build(engine, prompt, request)
        if self.body is not None:
            restore(self.search, self.body)
        return self.search

    def explored(self, search: TreeSearch) -> None:
        from thoughtmix.search.saved import save

        if self.file is not None:
            save(search, self.file, self.asked)

    def _save_now_and_then(self) -> None:
        """After a round: a machine that stops costs some seconds of search, and saving little of its time."""
        began = time.monotonic()
        if self.file is not None and self.search is not None and began >= self._saves_at:
            self.explored(self.search)
            took = time.monotonic() - began
            self._saves_at = began + max(_SAVE_EVERY, 20 * took)

    def picked(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def words(self, event: StepEvent) -> str:
        """How far it has come; now and then the tree is saved on the way."""
        self._save_now_and_then()
        if self.search is None:
            return "Searching"
        tree = self.search.tree
        return (
            f"Searching: {event.done:,} of {event.total:,} tokens, {len(tree)} nodes, {len(tree.complete())} complete"
        )


def _write(thoughts: ThoughtSet, thinker: SavedSearch, tree: bool, output: OutputOptions, report: Reporter) -> None:
    from thoughtmix.report import search as drawing

    found, nodes = thinker.search, thinker.nodes
    show_or_print(thoughts, output, report)
    if found is None:
        return
    if output.prints and tree:
        print_either(lambda: drawing.drawn_tree(found, nodes), lambda: f"\n{drawing.plain_tree(found, nodes)}\n")
    if output.prints:
        print(drawing.summary(found))
    write_file(output.html, lambda: drawing.page(found, nodes, thoughts, thinker.asked), report)
