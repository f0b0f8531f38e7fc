"""`thoughtmix think --prompts FILE --out FILE`: many prompts with one load of the model."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from thoughtmix.cli.options import OutputOptions, SelectionOptions, option
from thoughtmix.cli.output import check_folder, is_quiet, note
from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions

if TYPE_CHECKING:
    from thoughtmix.batch.run import Answer, BatchProgress
    from thoughtmix.batch.summary import BatchSummary
    from thoughtmix.cli.remote import EngineOptions
    from thoughtmix.core.types import ThoughtSet

_LINE_SECONDS = 10.0
"""Between two lines of progress in a pipe."""


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Many prompts instead of one."""

    prompts: Annotated[
        str | None,
        option("A file of prompts in place of one: JSONL, CSV or plain lines; - is standard input. Needs --out."),
    ] = None
    out: Annotated[
        str | None,
        option("A thought set a line, JSONL; - is standard output. Stopped, the same command goes on where it was."),
    ] = None
    column: Annotated[
        str | None, option("The prompt's column or field. Default: messages, prompt or text, the first there is.")
    ] = None
    format: Annotated[str, option("Of --prompts: jsonl, csv, lines, or auto, by its ending.")] = "auto"
    ordered: Annotated[bool, option("Write answers in the order of the prompts.", "--ordered")] = False
    rows: Annotated[int | None, option("Most rows in a step. Default: what pays and the memory holds.")] = None
    ray: Annotated[int | None, option("Spread them over so many Ray workers, here or on RAY_ADDRESS's cluster.")] = None
    retry_failed: Annotated[bool, option("Ask the prompts again that failed in an earlier run.", "--retry-failed")] = (
        False
    )
    summary: Annotated[Path | None, option("Write the metrics over all prompts here, JSON.")] = None

    def check(self, prompt: str | None, output: OutputOptions) -> None:
        """Refuse what does not go together. Raises `InputError`."""
        if self.prompts is None:
            stray = [
                f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(self) if getattr(self, f.name) != f.default
            ]
            if stray:
                raise InputError(f"{stray[0]} is for many prompts.", "Name them: --prompts FILE --out FILE")
            return
        if prompt is not None:
            raise InputError("A prompt and --prompts were given.", "Drop one of the two.")
        if self.out is None:
            raise InputError(
                "--prompts needs a file for the answers.", "Name one: --out answers.jsonl, or - for stdout"
            )
        for name in ("json", "html"):
            if getattr(output, name):
                raise InputError(
                    f"--{name} shows one set, and --prompts makes many.",
                    f"Drop it; then: thoughtmix measure {self.out}",
                )
        if self.out != "-" and self.prompts != "-" and Path(self.out).absolute() == Path(self.prompts).absolute():
            raise InputError("--prompts and --out are the same file.", "Name another (--out).")
        check_folder(self.summary)


def think_batch(
    batch: BatchOptions,
    thinker: str,
    options: Any,
    settings: Mapping[str, Any],
    *,
    system: str | None,
    model: str | None,
    engine: EngineOptions,
    output: OutputOptions,
    selection: SelectionOptions,
) -> int:
    """Run the batch, and say what it came to.

    Returns:
        The exit code: 1 where a prompt failed, 130 stopped.
    """
    from thoughtmix.batch.lines import AnswerFile
    from thoughtmix.batch.records import PromptSource
    from thoughtmix.batch.run import run_batch

    assert batch.prompts is not None and batch.out is not None
    settings = dict(settings)
    raw = bool(settings.pop("raw"))
    source = PromptSource(batch.prompts, batch.format, batch.column, system, raw)  # type: ignore[arg-type]
    source.check()
    own = options.given() if isinstance(options, ThinkerOptions) else dict(options or {})
    facts = _facts(settings, thinker, own, system, raw, model, engine, output, selection)
    load = partial(_load, engine, model, thinker, own, settings, batch, output, selection, facts)
    with AnswerFile(batch.out, facts, batch.retry_failed) as out:
        if batch.ray is None:
            return _run(batch, source, out, load(), run_batch)
        from thoughtmix.batch.over_ray import answer_over_ray

        answer = partial(answer_over_ray, load=load, workers=batch.ray, ordered=batch.ordered)
        return _run(batch, source, out, answer, run_batch)


def _load(
    engine: EngineOptions,
    model: str | None,
    thinker: str,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    batch: BatchOptions,
    output: OutputOptions,
    selection: SelectionOptions,
    facts: Mapping[str, Any],
) -> Answer:
    """What answers records, in this process or in a worker's. Nothing is loaded before the first record."""
    from thoughtmix.batch.prompts import think_many

    pipeline = engine.pipeline(model)

    def answer(records: Any) -> Any:
        kind = pipeline.thinker(thinker)
        request = pipeline.request(kind, options=options, **settings)
        return think_many(
            pipeline,
            kind,
            request,
            records,
            measure=output.measure,
            ordered=batch.ordered,
            rows=batch.rows,
            finish=partial(_selected, selection),
            facts={"batch": facts},
        )

    return answer


def _selected(selection: SelectionOptions, thoughts: ThoughtSet) -> ThoughtSet:
    """Those of `--select`, with the metrics of all."""
    return dataclasses.replace(selection.of(thoughts), metrics=thoughts.metrics)


def _facts(
    settings: Mapping[str, Any],
    thinker: str,
    options: Mapping[str, Any],
    system: str | None,
    raw: bool,
    model: str | None,
    engine: EngineOptions,
    output: OutputOptions,
    selection: SelectionOptions,
) -> dict[str, Any]:
    """What a batch is made with, as it was typed: a run with anything else may not go on with its file."""
    chosen: dict[str, Any] = {"select": selection.select}
    if selection.select is not None:
        chosen["quality_floor"] = selection.quality_floor
    return {
        **settings,
        **chosen,
        "thinker": thinker,
        "options": options,
        "system": system,
        "raw": raw,
        "model": model,
        "endpoint": engine.where,
        "measure": output.measure,
        **{name: getattr(engine, name) for name in ("judge", "judge_endpoint", "embedder", "embed_endpoint")},
        **{name: getattr(engine, name) for name in ("dtype", "weights", "path")},
        **({"engine": engine.engine, "engine_option": engine.engine_option or []} if engine.engine else {}),
    }


def _run(batch: BatchOptions, source: Any, out: Any, answer: Answer, run_batch: Callable[..., BatchSummary]) -> int:
    began = time.monotonic()
    try:
        with _progress() as tell:
            summary = run_batch(source, out, answer, tell)
    except KeyboardInterrupt:
        again = "Nothing of it can be gone on with: --out is standard output."
        again = again if batch.out == "-" else "Type the same command again to go on."
        print(f"thoughtmix: Stopped: {out.done:,} prompts are answered. {again}", file=sys.stderr)
        return 130
    if batch.summary is not None:
        from thoughtmix.core.files import write_whole

        write_whole(batch.summary, json.dumps(summary.to_dict(), indent=2) + "\n")
    note(f"{summary.text()}\n{time.monotonic() - began:.1f} s in this run; answers in {batch.out}")
    if summary.failed:
        print(
            f"thoughtmix: {summary.failed:,} of {summary.prompts:,} prompts failed; their lines have an error. "
            "Type the same command with --retry-failed to ask them again.",
            file=sys.stderr,
        )
    return 1 if summary.failed else 0


@contextmanager
def _progress() -> Iterator[Callable[[BatchProgress], None]]:
    """On stderr: one line that changes on a terminal, elsewhere a line every ten seconds."""
    if is_quiet():
        yield lambda progress: None
        return
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("loading") as status:
            yield lambda progress: status.update(str(progress))
        return
    said = time.monotonic()

    def line(progress: BatchProgress) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            note(str(progress))

    yield line
