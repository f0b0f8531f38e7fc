"""`thoughtmix experiment`: a mixture beside a standard transformer, from text to report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError


@app.command()
def experiment(
    data: Annotated[str, typer.Option(help="A UTF-8 text file, or tiny-shakespeare to fetch that.")],
    out: Annotated[Path, typer.Option(help="Folder for models, texts, results.json and report.html.")],
    minutes: Annotated[float, typer.Option(help="About how long all of it may take here.")] = 10.0,
    seeds: Annotated[int, typer.Option(help="Trainings of each of the two models.")] = 1,
    n: Annotated[int, typer.Option("-n", "--n", help="Thoughts a prompt.")] = 8,
    tokens: Annotated[int, typer.Option(help="Tokens a thought.")] = 100,
    width: Annotated[int, typer.Option(help="Hidden size.")] = 128,
    layers: Annotated[int, typer.Option(help="Layers.")] = 4,
    steps: Annotated[int | None, typer.Option(help="Of every training, whatever the minutes say.")] = None,
    context: Annotated[int, typer.Option(help="Tokens a training window.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Windows a step.")] = 12,
    branches: Annotated[int, typer.Option(help="Branches a layer.")] = 8,
    modes: Annotated[int, typer.Option(help="Learned ways to continue; 0: none.")] = 8,
    prompts: Annotated[int, typer.Option(help="Prompts, a third of them to choose settings on.")] = 24,
    ablations: Annotated[str, typer.Option(help="Trained too: all, none, or names separated by commas.")] = "all",
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
) -> int:
    """Train a mixture and a baseline alike, explore with both, judge, and write a report. The same command goes on."""
    if prompts < 12:
        raise InputError(f"{prompts} prompts are too few.", "Pass --prompts 12 or more.")
    from thoughtmix.experiment.plan import TRAINED, Plan
    from thoughtmix.mixture import RECIPE

    plan = Plan(
        data=data,
        minutes=minutes,
        steps=steps,
        seeds=seeds,
        n=n,
        tokens=tokens,
        width=width,
        layers=layers,
        context=context,
        batch_size=batch_size,
        branches=branches,
        development=prompts // 3,
        held_out=prompts - prompts // 3,
        ablations={"all": tuple(TRAINED), "none": ()}.get(ablations, tuple(ablations.split(","))),
        seed=seed,
        mixture={**RECIPE, "modes": modes},
    )
    from thoughtmix.experiment.report import page
    from thoughtmix.experiment.run import Experiment, write_whole_in

    with _progress() as say:
        try:
            result = Experiment(plan, out, say).run()
        except KeyboardInterrupt:
            print("\nthoughtmix: Stopped. Type the same again to go on.", file=sys.stderr)
            return 130
    import json

    write_whole_in(out / "results.json", json.dumps(result, indent=1, ensure_ascii=False))
    write_whole_in(out / "report.html", page(result))
    for row in result["frontier"]["comparisons"]:
        i = row["interval"]
        if i["value"] is not None:
            low, high = ("?" if v is None else f"{v:.3f}" for v in (i["low"], i["high"]))
            print(f"{row['measure']}, mixture beside baseline: {i['value']:.3f} ({low} to {high})")
    losses = result["losses"]
    drawn, whole, still = (_mean(losses["mixture"][how]) for how in ("drawn", "marginal", "deterministic"))
    base = _mean(losses["baseline"]["drawn"])
    print(
        f"validation loss: mixture {whole:.4f} (all modes), {drawn:.4f} drawn, {still:.4f} deterministic; "
        f"baseline {base:.4f}"
    )
    print(f"Wrote {out / 'report.html'} and {out / 'results.json'} in {result['seconds']:.0f} s")
    return 0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _progress() -> Any:
    """A line for each thing done; while training, on a terminal, one that moves."""
    from contextlib import contextmanager

    @contextmanager
    def lines() -> Any:
        last = [""]

        def say(title: str, progress: Any) -> None:
            if progress is None:
                if title != last[0]:
                    print(f"{title} ...", file=sys.stderr, flush=True)
                last[0] = title
            elif sys.stderr.isatty():
                words = (
                    f"  {progress.step}/{progress.steps}, loss {progress.loss:.3f}, {progress.seconds_left:.0f} s left"
                )
                print(f"{words:<60}", end="\r", file=sys.stderr, flush=True)

        yield say

    return lines()
