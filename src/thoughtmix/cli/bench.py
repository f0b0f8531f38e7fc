"""`thoughtmix bench`: thinkers beside each other, with intervals."""

from __future__ import annotations

import json as codec
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.bench.plan import Models, Plan
    from thoughtmix.bench.runner import Progress
    from thoughtmix.bench.tasks import Item

DEFAULT_THINKERS = "sampling,temperature,styles"


@app.command()
def bench(
    thinkers: Annotated[
        str, typer.Option(help="Who takes part, the first as baseline; see --list.")
    ] = DEFAULT_THINKERS,
    prompts: Annotated[
        Path | None, typer.Option(help="Open prompts: JSON Lines with `prompt` (NoveltyBench's files too).")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Task families: coverage, puzzles, countdown, writing, with commas between, or none.")
    ] = "coverage,puzzles",
    n: Annotated[int, typer.Option("-n", "--n", help="Thoughts a cell.")] = 8,
    budget: Annotated[int, typer.Option(help="Most tokens of a cell, all n thoughts together, for everyone.")] = 384,
    seeds: Annotated[int, typer.Option(help="Seeds of each prompt and setting; 3 or more for a result.")] = 3,
    settings: Annotated[int, typer.Option(help="Settings each thinker may try on the development prompts.")] = 5,
    keep: Annotated[int, typer.Option(help="Settings of each that are reported on the held-out prompts.")] = 3,
    ladders: Annotated[
        Path | None, typer.Option(help="JSON with a list of settings by thinker, instead of the built-in ones.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take only so many prompts of each kind, drawn by --seed.")] = None,
    development: Annotated[float, typer.Option(help="Share of the prompts for choosing settings.")] = 0.4,
    pairs: Annotated[
        Path | None, typer.Option(help="Labelled pairs (a, b, same) that set the threshold of distinct_k, 0.3 else.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, the intervals and the examples.")] = 0,
    model: Annotated[
        str | None, typer.Option(help="A folder or a Hugging Face id. Default: SmolLM2-135M-Instruct.")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Who judges open prompts, named as --model. Default: the model itself.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="A sentence-transformers model. Default: all-MiniLM-L6-v2.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes, each with its own models.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Spread the workers with Ray, over machines too.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for cells, record and page; the same again continues it.")] = Path(
        "bench-out"
    ),
    list_: Annotated[bool, typer.Option("--list", help="Print who can take part, and stop.")] = False,
) -> None:
    """Measure diversity against quality, on equal terms, and write a page with intervals."""
    if list_:
        _list()
        return
    from thoughtmix.bench.cells import Store
    from thoughtmix.bench.plan import Models, Plan, split
    from thoughtmix.bench.report import page
    from thoughtmix.bench.study import run
    from thoughtmix.core.types import write_whole

    names = tuple(name.strip() for name in thinkers.split(","))
    models = Models(model, judge, embedder, dtype, device)
    first, second = split(_items(prompts, tasks), development, limit, seed)
    plan = Plan(
        names, _ladders(names, settings, ladders, models, first), first, second,
        n=n, max_new_tokens=budget // max(n, 1), seeds=seeds, keep=keep, seed=seed,
        threshold=0.3 if pairs is None else _threshold(pairs, models), models=models,
    )  # fmt: skip
    _check(plan)
    store = Store(out, plan.about())
    if store.records:
        print(f"Continuing: {len(store.records)} cells are there.", file=sys.stderr)
    result = run(plan, store, workers=workers, ray=ray, on_progress=_progress())
    write_whole(out / "result.json", codec.dumps(result, indent=1, ensure_ascii=False, allow_nan=False))
    write_whole(out / "report.html", page(result))
    _say(result)
    print(f"Wrote {out / 'report.html'} and {out / 'result.json'}", file=sys.stderr)


def _list() -> None:
    from thoughtmix.bench.contestants import contestant, contestant_names

    for name in contestant_names():
        print(f"{name:18}  {contestant(name).summary}")


def _items(prompts: Path | None, tasks: str) -> list[Item]:
    from thoughtmix.bench.tasks import family, read_prompts

    items = [] if prompts is None else read_prompts(prompts)
    for name in tasks.split(",") if tasks not in {"", "none"} else ():
        items += family(name.strip())
    if not items:
        raise InputError("There is nothing to ask.", "Pass --prompts FILE, or --tasks coverage.")
    return items


def _ladders(
    names: tuple[str, ...], count: int, file: Path | None, models: Models, items: tuple[Item, ...]
) -> dict[str, Any]:
    """Each thinker's settings: from the file where it has some, built in else, matched on the model for same-kl."""
    from thoughtmix.bench.contestants import check_settings, contestant

    if count < 1:
        raise InputError(f"{count} settings.", "Pass --settings 1 or more.")
    given = _given(file) if file is not None else {}
    if unused := sorted(set(given) - set(names)):
        raise InputError(f"{file} has settings for {unused[0]!r}, who does not take part.", "Add it to --thinkers.")
    out = {name: given.get(name) or contestant(name).ladder(count) for name in names}
    for name in names:
        if name.startswith("same-kl:") and name not in given:
            from thoughtmix.bench.kl import same_kl_ladder

            like = contestant(name.removeprefix("same-kl:")).ladder(count)
            out[name] = same_kl_ladder(models.pipeline().model, [item.prompt for item in items[:6]], like)
    check_settings(out)
    return out


def _given(file: Path) -> dict[str, list[dict[str, Any]]]:
    hint = 'Write {"mixture": [{"creativity": 0.5}, {"creativity": 1}]}.'
    try:
        body = codec.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the settings: {error}.", hint) from None
    good = isinstance(body, dict) and all(
        isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) for rows in body.values()
    )
    if not good:
        raise InputError(f"{file} is no JSON object with a list of settings by thinker.", hint)
    return body


def _threshold(file: Path, models: Models) -> float:
    """Calibrated on the labelled pairs, with the embedder of the run."""
    from thoughtmix.bench.novelty import calibrate, read_pairs

    pairs, same = read_pairs(file)
    left, right = (models.pipeline().embedder.encode([pair[side] for pair in pairs]) for side in (0, 1))
    got = calibrate(1 - (left * right).sum(1), same)
    print(
        f"Same below a distance of {got.threshold:.3f}: "
        f"{100 * got.balanced_accuracy:.0f}% of {got.pairs} pairs are told right.",
        file=sys.stderr,
    )
    return round(got.threshold, 4)


def _check(plan: Plan) -> None:
    """Refuse before a model is loaded what a cell would refuse later."""
    if not 1 <= plan.keep <= len(plan.ladders[plan.thinkers[0]]):
        raise InputError(f"Cannot keep {plan.keep} of {len(plan.ladders[plan.thinkers[0]])} settings.", "Lower --keep.")
    bare = [item.id for item in plan.items.values() if not item.paraphrases]
    if "paraphrase" in plan.thinkers and bare:
        raise InputError(
            f"{bare[0]} has no paraphrases.", "Add `prompt_paraphrases` to its line, or drop `paraphrase`."
        )


def _progress() -> Any:
    """One line on a terminal that renews itself; into a pipe, a line every 20 cells."""
    live = sys.stderr.isatty()

    def see(progress: Progress) -> None:
        last = progress.done == progress.total
        if live:
            print(f"\r\x1b[2K{str(progress)[:110]}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif last or progress.done % 20 == 0:
            print(progress, file=sys.stderr, flush=True)

    return see


def _say(result: dict[str, Any]) -> None:
    """The comparisons as plain lines."""
    from thoughtmix.bench.report import comparison

    for kind, body in result["kinds"].items():
        for row in map(comparison, body["comparisons"]):
            print(
                f"{kind:10} {row['thinker']:18} {row['measure']:40} {row['value']:>12} "
                f"{row['interval']:24} p {row['p']}"
            )
