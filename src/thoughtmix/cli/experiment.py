"""`thoughtmix experiment`: a mixture beside a standard transformer, from text to report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.training.trainer import TrainingProgress


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
    from thoughtmix.bench.experiment import Experiment, page
    from thoughtmix.bench.experiment_models import ABLATIONS, ExperimentConfig
    from thoughtmix.core.types import write_whole
    from thoughtmix.mixture import RECIPE

    config = ExperimentConfig(
        data,
        minutes,
        steps,
        seeds,
        n,
        tokens,
        context,
        batch_size,
        layers,
        width,
        branches=branches,
        seed=seed,
        development=prompts // 3,
        held_out=prompts - prompts // 3,
        mixture={**RECIPE, "modes": modes},
        ablations={"all": tuple(ABLATIONS), "none": ()}.get(ablations, tuple(ablations.split(","))),
    )
    try:
        result = Experiment(config, out, _Progress()).run()
    except KeyboardInterrupt:
        print("\nthoughtmix: Stopped. Type the same again to go on.", file=sys.stderr)
        return 130
    write_whole(out / "results.json", json.dumps(result, indent=1, ensure_ascii=False))
    write_whole(out / "report.html", page(result))
    _summary(result)
    print(f"Wrote {out / 'report.html'} and {out / 'results.json'} in {result['seconds']:.0f} s")
    return 0


def _summary(result: dict[str, Any]) -> None:
    for row in result["frontier"]["comparisons"]:
        i = row["interval"]
        if i["value"] is not None:
            low, high = ("?" if v is None else f"{v:.3f}" for v in (i["low"], i["high"]))
            print(f"{row['measure']}, mixture beside baseline: {i['value']:.3f} ({low} to {high})")
    losses = result["losses"]
    drawn, whole, still = (mean(losses["mixture"][how]) for how in ("drawn", "marginal", "deterministic"))
    print(
        f"validation loss: mixture {whole:.4f} (all modes), {drawn:.4f} drawn, {still:.4f} deterministic; "
        f"baseline {mean(losses['baseline']['drawn']):.4f}"
    )


class _Progress:
    """A line for each thing done; while training, on a terminal, one that moves."""

    last = ""

    def __call__(self, title: str, training: TrainingProgress | None) -> None:
        if training is not None:
            if sys.stderr.isatty():
                words = f"  {training.step}/{training.steps}, loss {training.loss:.3f}"
                print(f"{f'{words}, {training.seconds_left:.0f} s left':<60}", end="\r", file=sys.stderr, flush=True)
        elif title != self.last:
            print(f"{title} ...", file=sys.stderr, flush=True)
            self.last = title
