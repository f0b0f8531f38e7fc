"""`thoughtmix think --prompts FILE --out FILE`: many prompts with one load of the model."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from thoughtmix.cli.options import MANY, OutputOptions, SelectionOptions, option
from thoughtmix.cli.output import STDOUT, check_files, write_file
from thoughtmix.cli.renamed import flag
from thoughtmix.cli.reporting import Reporter
from thoughtmix.core.errors import InputError
from thoughtmix.core.options import ThinkerOptions

if TYPE_CHECKING:
    from thoughtmix.batch.run import Answer
    from thoughtmix.batch.summary import BatchSummary
    from thoughtmix.cli.remote import EngineOptions
    from thoughtmix.core.types import ThoughtSet


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Many prompts instead of one."""

    GROUP: ClassVar[str] = MANY
    prompts: Annotated[
        str | None,
        option(
            "A file of prompts in place of one: JSONL, CSV or plain lines; - is standard input. Then --out is JSONL, "
            "a thought set a line, and the same command goes on where it was stopped.",
            default="the prompt that is typed",
            metavar="FILE",
        ),
    ] = None
    column: Annotated[
        str | None,
        option("The prompt's column or field.", default="messages, prompt or text, the first there is"),
    ] = None
    format: Annotated[str, option("Of --prompts: jsonl, csv, lines, or auto, by its ending.")] = "auto"
    ordered: Annotated[bool, option("Write answers in the order of the prompts.", "--ordered")] = False
    rows: Annotated[int | None, option("Most rows in a decoding step.", default="what pays and the memory holds")] = (
        None
    )
    ray_workers: Annotated[
        int | None,
        option(
            "Spread them over so many Ray workers, here or on RAY_ADDRESS's cluster.",
            default="none, all in this process",
        ),
    ] = None
    retry_failed: Annotated[bool, option("Ask the prompts again that failed in an earlier run.", "--retry-failed")] = (
        False
    )
    summary: Annotated[
        Path | None, option("Write the metrics over all prompts here, JSON; - is standard output.", default="no file")
    ] = None

    def check(self, prompt: str | None, output: OutputOptions) -> None:
        """Refuse what does not go together. Raises `InputError`."""
        if self.prompts is None:
            stray = [flag(f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
            if stray:
                raise InputError(f"{stray[0]} is for many prompts.", "Name them: --prompts FILE --out FILE")
            return
        if prompt is not None:
            raise InputError("A prompt and --prompts were given.", "Drop one of the two.")
        if output.out is None:
            raise InputError(
                "--prompts needs a file for the answers.", "Name one: --out answers.jsonl, or - for stdout"
            )
        for name in ("json", "html"):
            if getattr(output, name):
                raise InputError(
                    f"--{name} shows one set, and --prompts makes many.",
                    f"Drop it; then: thoughtmix measure {output.out}",
                )
        if output.out != STDOUT and self.prompts != "-" and output.out.absolute() == Path(self.prompts).absolute():
            raise InputError("--prompts and --out are the same file.", "Name another (--out).")
        check_files(output.out, self.summary)


def think_batch(
    batch: BatchOptions,
    thinker: str | None,
    options: Any,
    settings: Mapping[str, Any],
    *,
    system: str | None,
    model: str | None,
    engine: EngineOptions,
    output: OutputOptions,
    selection: SelectionOptions,
    report: Reporter,
) -> int:
    """Run the batch, and say what it came to.

    Returns:
        The exit code: 1 where a prompt failed, 130 stopped.
    """
    from thoughtmix.batch.lines import AnswerFile
    from thoughtmix.batch.records import PromptSource
    from thoughtmix.batch.run import run_batch

    assert batch.prompts is not None and output.out is not None
    settings = dict(settings)
    raw = bool(settings.pop("raw"))
    source = PromptSource(batch.prompts, batch.format, batch.column, system, raw)  # type: ignore[arg-type]
    source.check()
    own = options.given() if isinstance(options, ThinkerOptions) else dict(options or {})
    facts = _facts(settings, thinker, own, system, raw, model, engine, output, selection)
    load = partial(_load, engine, model, thinker, own, settings, batch, output, selection, facts, report.quiet)
    with AnswerFile(str(output.out), facts, batch.retry_failed) as out:
        if batch.ray_workers is None:
            return _run(batch, source, out, load(), run_batch, report)
        from thoughtmix.batch.over_ray import answer_over_ray

        answer = partial(answer_over_ray, load=load, workers=batch.ray_workers, ordered=batch.ordered)
        return _run(batch, source, out, answer, run_batch, report)


def _load(
    engine: EngineOptions,
    model: str | None,
    thinker: str | None,
    options: Mapping[str, Any],
    settings: Mapping[str, Any],
    batch: BatchOptions,
    output: OutputOptions,
    selection: SelectionOptions,
    facts: Mapping[str, Any],
    quiet: bool,
) -> Answer:
    """What answers records, in this process or in a worker's. Nothing is loaded before the first record."""
    from thoughtmix.batch.prompts import think_many

    pipeline = engine.pipeline(model, Reporter(quiet))

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
    thinker: str | None,
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


def _run(
    batch: BatchOptions,
    source: Any,
    out: Any,
    answer: Answer,
    run_batch: Callable[..., BatchSummary],
    report: Reporter,
) -> int:
    began = time.monotonic()
    to_stdout = out.path == "-"
    try:
        with report.work("Loading the model") as say:
            summary = run_batch(source, out, answer, lambda progress: say(str(progress)))
    except KeyboardInterrupt:
        again = "Nothing of it can be gone on with: --out is standard output."
        report.warn(
            f"Stopped: {out.done:,} prompts are answered. "
            f"{again if to_stdout else 'Type the same command again to go on.'}"
        )
        return 130
    report.note(f"{summary.text()}\n{time.monotonic() - began:.1f} s in this run")
    report.note(f"Wrote {'standard output' if to_stdout else out.path}")
    write_file(batch.summary, lambda: json.dumps(summary.to_dict(), indent=2), report)
    if summary.failed:
        report.warn(
            f"{summary.failed:,} of {summary.prompts:,} prompts failed; their lines have an error. "
            "Type the same command with --retry-failed to ask them again."
        )
    return 1 if summary.failed else 0
