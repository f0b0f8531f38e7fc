"""`thoughtmix measure`: texts that came from anywhere, with the same metrics, map, selection and page."""

from __future__ import annotations

import dataclasses
import json as json_module
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import MEASURING, DeviceOptions, SelectionOptions, ShownOptions, option
from thoughtmix.cli.output import print_either, write_file
from thoughtmix.cli.remote import Embedder, EmbedEndpoint, EngineOptions, JudgeEndpoint
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cli.think import finish
from thoughtmix.core.errors import InputError
from thoughtmix.core.types import SCHEMA, ThoughtSet

if TYPE_CHECKING:
    from thoughtmix.batch.records import Record
    from thoughtmix.batch.summary import BatchSummary

TEXT_COLUMNS = ("text", "answer", "completion", "response", "output")
_SETS = ("set", "prompt")
_SHOWN = ("vendi", "mean_distance", "distinct_k", "distinct_2", "self_bleu", "duplicate_rate", "relevance", "judge_nll")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What the texts are."""

    prompt: Annotated[str, option("What they answer, where the file does not say it.", default="nothing")] = ""
    column: Annotated[
        str | None,
        option("The texts' column or field.", default="text, answer, completion, response or output"),
    ] = None
    sets: Annotated[
        str | None,
        option(
            "The column that says which set a text is of.", default="set or prompt, if there is one", metavar="COLUMN"
        ),
    ] = None
    format: Annotated[str, option("jsonl, csv, lines, or auto, by the file's ending.")] = "auto"


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(DeviceOptions):
    """Who embeds and judges."""

    judge: Annotated[
        str | None,
        option(
            "A model that scores each text's likelihood, named as --model of `think`.",
            group=MEASURING,
            default="nobody judges",
            metavar="NAME",
        ),
    ] = None
    judge_endpoint: JudgeEndpoint = None
    embedder: Embedder = None
    embed_endpoint: EmbedEndpoint = None


@app.command()
@with_options
def measure(
    file: Annotated[
        str, typer.Argument(help="JSONL, CSV or plain lines, a text each; or thought sets, one a line; - is stdin.")
    ],
    texts: TextOptions,
    selection: SelectionOptions,
    models: MeasureOptions,
    output: ShownOptions,
    report: Reporter,
) -> int:
    """Measure texts of your own: how different they are, a map, the most different of them. Several sets, by a column,
    are compared."""
    from thoughtmix.metrics import measure as measured

    selection.check(None)
    output.check()
    pipeline = EngineOptions(**dataclasses.asdict(models)).pipeline(None, report)
    made = []
    with report.work("Loading what measures") as say:
        for given in read_sets(file, texts):
            one = measured(given, pipeline.embedder, pipeline.judge)
            if selection.select is not None and selection.select > len(one):
                raise InputError(f"{one.prompt[:40]!r} has {len(one)} texts.", f"Pass --select 1 to {len(one)}.")
            made.append(selection.of(one))
            say(f"Measuring: {len(made)} sets")
    if len(made) == 1:
        finish(made[0], output, report)
        return 0
    from thoughtmix.report.html import page_of_sets

    lines = "\n".join(one.to_json(indent=None) for one in made)
    if output.json:
        print(lines)
    elif output.prints:
        _show_sets(made)
    write_file(output.out, lambda: lines, report)
    write_file(output.html, lambda: page_of_sets(made), report)
    return 0


def read_sets(file: str, texts: TextOptions) -> Iterator[ThoughtSet]:
    """The sets of a file, in the order in which they begin. Raises `InputError`, naming the record."""
    from thoughtmix.batch.records import PromptSource

    source = PromptSource(
        file,
        texts.format,  # type: ignore[arg-type]
        texts.column,
        columns=TEXT_COLUMNS,
        what="text",
    )
    groups: dict[str, list[str]] = {}
    prompts: dict[str, str] = {}
    whole = False
    for record in source.records():
        if record.fields.get("schema") == SCHEMA:  # of a batch, or saved
            whole = True
            if record.fields.get("thoughts"):
                yield ThoughtSet.from_dict(record.fields)
            continue
        name, text = _set_of(record, texts, file)
        prompts.setdefault(name, str(record.fields.get("prompt") or texts.prompt))
        groups.setdefault(name, []).append(text)
    if not groups and not whole:
        raise InputError(f"{file} holds no text.", "Put one on each line.")
    for name, members in groups.items():
        yield ThoughtSet.from_texts(members, prompts[name] or name, measure=False)


def _set_of(record: Record, texts: TextOptions, file: str) -> tuple[str, str]:
    """The name of a text's set, and the text."""
    if record.prompt is None:
        columns = [name for name, value in record.fields.items() if isinstance(value, str)]
        hint = f"Name the column: --column {columns[0]}" if columns else "See: thoughtmix measure --help"
        raise InputError(f"{file}, record {record.index + 1}: {record.error}", hint)
    if texts.sets is not None and texts.sets not in record.fields:
        has = ", ".join(record.fields) or "none"
        raise InputError(
            f"{file}, record {record.index + 1} has no column {texts.sets!r}; it has {has}.",
            "Name another: --sets COLUMN",
        )
    names = _SETS if texts.sets is None else (texts.sets,)
    return str(next((record.fields[name] for name in names if name in record.fields), "")), record.prompt.text


def _show_sets(sets: list[ThoughtSet]) -> None:
    """A row a set, and their means."""
    from thoughtmix.batch.summary import BatchSummary

    total = BatchSummary()
    for one in sets:
        total.add(json_module.loads(one.to_json()))
    names = [name for name in _SHOWN if name in total.metrics]

    def table() -> Any:
        from rich.table import Table

        out = Table("set", "texts", *names)
        for row in _rows(sets, names, total):
            out.add_row(*row)
        return out

    def plain() -> str:
        rows = [["set", "texts", *names], *_rows(sets, names, total)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(names) + 2)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        )

    print_either(table, plain)


def _rows(sets: list[ThoughtSet], names: list[str], total: BatchSummary) -> list[list[str]]:
    from thoughtmix.report.text import printable

    rows = []
    for one in sets:
        title = printable(" ".join(one.prompt.split()))
        title = title if len(title) <= 40 else f"{title[:39]}…"
        rows.append([title, str(len(one)), *(f"{one.metrics[n]:.3f}" if n in one.metrics else "" for n in names)])
    margins = ("" if (m := total.metrics[n].margin) is None else f" ± {m:.3f}" for n in names)
    means = [f"{total.metrics[n].mean:.3f}{margin}" for n, margin in zip(names, margins, strict=True)]
    return [*rows, ["mean over sets", str(total.thoughts), *means]]
