"""`thoughtmix think`: the main command."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.cli.output import check_folder, finish
from thoughtmix.core.errors import InputError, Interrupted

if TYPE_CHECKING:
    from thoughtmix.core.types import ThoughtSet

_EACH = "One value, or n with commas between."


@app.command()
def think(
    prompt: Annotated[str, typer.Argument(help="What to think about; - reads it from standard input.")],
    n: Annotated[int, typer.Option("-n", "--n", help="How many thoughts.")] = 8,
    thinker: Annotated[
        str, typer.Option(help="How to explore: see `thoughtmix thinkers`; auto: what the model is made for.")
    ] = "auto",
    creativity: Annotated[float | None, typer.Option(help="0 is deterministic, 1 the default, more is bolder.")] = None,
    seed: Annotated[int, typer.Option(help="Thought i gets seed + i - 1 and can be made again alone by it.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest thought, in tokens.")] = 64,
    temperature: Annotated[str | None, typer.Option(help=f"Sampling temperature. {_EACH}")] = None,
    top_k: Annotated[str, typer.Option(help=f"Keep the k likeliest tokens; 0 is off. {_EACH}")] = "0",
    top_p: Annotated[str, typer.Option(help=f"Keep this much probability; 1 is off. {_EACH}")] = "1",
    min_p: Annotated[str | None, typer.Option(help=f"Keep tokens this likely beside the likeliest. {_EACH}")] = None,
    top_nsigma: Annotated[str, typer.Option(help=f"Keep logits within n deviations; 0 is off. {_EACH}")] = "0",
    stop: Annotated[list[str] | None, typer.Option(help="End a thought before this text; may be repeated.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message before the prompt.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder or a Hugging Face id. Default: SmolLM2-135M-Instruct.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="A model that scores each thought's likelihood, named as --model.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    weights: Annotated[str, typer.Option(help="How steps read the weights: auto, native or fp16.")] = "auto",
    path: Annotated[str, typer.Option(help="Decoding path: auto, fused, shared or expanded.")] = "auto",
    select: Annotated[int | None, typer.Option(help="Show only the k most different good thoughts.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE for the thinker itself; may be repeated.")] = None,
    measure: Annotated[bool, typer.Option(help="Embed the thoughts and measure them.")] = True,
    stream: Annotated[bool, typer.Option(help="Show the thoughts while they grow (terminals only).")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the thought set as JSON and nothing else.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained page here.")] = None,
) -> int:
    """Turn one prompt into n thoughts, in one batched pass."""
    if prompt == "-":
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise InputError("The prompt is empty.", 'Type a prompt: thoughtmix think "Name a fruit."')
    if select is not None and (select < 1 or select > n):
        raise InputError(f"Cannot select {select} of {n} thoughts.", f"Pass --select 1 to {n}.")
    if select is not None and not measure:
        raise InputError("--select needs the distances that --no-measure leaves out.", "Drop one of the two.")
    check_folder(html)
    settings: dict[str, Any] = {
        "n": n,
        "thinker": thinker,
        "creativity": creativity,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "temperature": None if temperature is None else _numbers("--temperature", temperature, float),
        "top_k": _numbers("--top-k", top_k, int),
        "top_p": _numbers("--top-p", top_p, float),
        "min_p": None if min_p is None else _numbers("--min-p", min_p, float),
        "top_nsigma": _numbers("--top-nsigma", top_nsigma, float),
        "stop": tuple(stop or ()),
        "raw": raw,
        "measure": measure,
        "options": _options(option or []),
    }
    _check(settings)
    said: Any = (
        prompt if system is None else [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
    )
    try:
        thoughts = _run(said, settings, stream and not json, model, dtype, device, weights, path, judge)
        code = 0
    except Interrupted as interrupted:
        thoughts, code = interrupted.thoughts, interrupted.exit_code
        print(f"thoughtmix: {interrupted}", file=sys.stderr)
        select = None  # nothing was measured
    if select is not None:
        thoughts = thoughts.select(select)
    finish(thoughts, json, html)
    return code


def _check(settings: dict[str, Any]) -> None:
    """Refuse what cannot work before a model is loaded for it."""
    import dataclasses

    from thoughtmix.api import AUTO, typed_options
    from thoughtmix.core.request import Request
    from thoughtmix.thinkers.registry import get_thinker

    if settings["thinker"] != AUTO:
        typed_options(get_thinker(settings["thinker"]), settings["options"], {})
    known = {f.name for f in dataclasses.fields(Request)} - {"options"}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in known}
    Request(**given)


def _run(
    prompt: Any,
    settings: dict[str, Any],
    stream: bool,
    model: str | None,
    dtype: str,
    device: str,
    weights: Any,
    path: Any,
    judge: str | None,
) -> ThoughtSet:
    from thoughtmix.cli.output import progress

    status: Any = nullcontext()
    if sys.stderr.isatty():
        from rich.console import Console

        status = Console(stderr=True).status("loading")
    with status:
        from thoughtmix.api import Pipeline

        pipeline = Pipeline(
            model, dtype=dtype, device=device, weights=weights, path=path, judge=judge, on_progress=progress()
        )
        _ = pipeline.model
    if not (stream and sys.stdout.isatty()):
        return pipeline(prompt, **settings)
    from rich.console import Console

    from thoughtmix.report.text import LiveView

    with LiveView(Console(), settings["n"]) as view:
        return pipeline(prompt, on_step=view.update, **settings)


def _numbers(name: str, text: str, kind: type[float] | type[int]) -> Any:
    """ "0.7" -> 0.7, "0.5,0.9" -> [0.5, 0.9]."""
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{name} is {text!r}, not a number.", f"Pass a number, or several with commas ({name} 1)."
        ) from None
    return values[0] if len(values) == 1 else values


def _options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value that reads as JSON is taken as such (3, 0.5, true), any other as text."""
    import json as codec

    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--option {pair!r} is not KEY=VALUE.", "Write --option name=value.")
        try:
            out[key] = codec.loads(value)
        except ValueError:
            out[key] = value
    return out
