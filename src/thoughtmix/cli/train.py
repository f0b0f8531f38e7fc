"""`thoughtmix train`: a small model of ours on a text; `thoughtmix experiment`: a mixture beside its baseline."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.options import option, with_options
from thoughtmix.cli.output import stopped, training_progress
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.training.config import TrainConfig
    from thoughtmix.training.language import Shape
    from thoughtmix.training.trainer import TrainingProgress, TrainingResult

KINDS = ("mixture", "baseline", "diffusion")


@dataclass(frozen=True)
class TrainOptions:
    """What is typed after `thoughtmix train`."""

    kind: Annotated[str, typer.Argument(help="mixture, baseline (the same transformer with one branch) or diffusion.")]
    data: Annotated[str, option("A UTF-8 text file, or tiny-shakespeare to fetch that.")]
    out: Annotated[Path, option("The folder to write; then: thoughtmix think --model FOLDER.")]
    steps: Annotated[int | None, option("Optimizer steps. Default: 2000, or what --minutes allow.")] = None
    minutes: Annotated[float | None, option("Train for about this long.")] = None
    batch_size: Annotated[int, option("Windows a step and process.")] = 32
    context: Annotated[int, option("Tokens a window.")] = 64
    layers: Annotated[int, option("Layers.")] = 4
    width: Annotated[int, option("Hidden size.")] = 128
    heads: Annotated[int, option("Attention heads.")] = 4
    vocabulary: Annotated[int, option("Byte-level BPE of this size; 0: characters.")] = 0
    branches: Annotated[int, option("Branches a layer (mixture).")] = 8
    routes: Annotated[str, option("follow (the text) or drawn (for a thought, blindly) (mixture).")] = "follow"
    modes: Annotated[int | None, option("Learned ways to continue (mixture). Default: 8; drawn: none.")] = None
    segment: Annotated[int, option("Tokens between draws of a route; 0: one route a text (mixture).")] = 0
    noise: Annotated[str | None, option("held, fresh or none (mixture). Default: none; drawn: held.")] = None
    weighting: Annotated[str, option("bound (exact) or uniform (diffusion).")] = "bound"
    masking: Annotated[str, option("count or time: how many tokens are hidden (diffusion).")] = "count"
    prefix: Annotated[float, option("Share of windows with a clean prefix (diffusion).")] = 0.5
    learning_rate: Annotated[float, option("The peak.")] = 1e-3
    ema: Annotated[float, option("Decay of averaged weights; 0: off.")] = 0.0
    patience: Annotated[int, option("Stop after so many evaluations without a better one; 0: never.")] = 0
    evaluate_every: Annotated[int, option("Steps between evaluations and checkpoints.")] = 250
    precision: Annotated[str, option("auto, no or bf16.")] = "auto"
    optimizer: Annotated[str, option("adamw, or muon for the matrices.")] = "adamw"
    seed: Annotated[int, option("Of weights, batches and routes.")] = 0
    resume: Annotated[bool, option("Go on from the last checkpoint in --out.", "--resume")] = False

    def shape(self) -> Shape:
        """The sizes of the model."""
        from thoughtmix.training.language import Shape

        if self.context < 2 or min(self.layers, self.width, self.heads, self.branches) < 1:
            raise InputError("A size is too small.", "Pass --context 2, --layers 1, --width 1, ... or more.")
        return Shape(self.layers, self.width, self.heads, self.context, self.vocabulary)

    def config(self) -> TrainConfig:
        """How it is trained."""
        from thoughtmix.training.config import TrainConfig

        return TrainConfig(
            steps=2000 if self.steps is None and self.minutes is None else self.steps,
            minutes=self.minutes,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            ema=self.ema,
            patience=self.patience,
            evaluate_every=self.evaluate_every,
            save_every=self.evaluate_every,
            precision=self.precision,
            optimizer=self.optimizer,
            seed=self.seed,
        )

    def trainer(self) -> Callable[..., Any]:
        """What trains this kind of model, with what only that kind has."""
        if self.kind == "diffusion":
            from thoughtmix.diffusion.train import DiffusionObjective, train_diffusion

            objective = DiffusionObjective(weighting=self.weighting, masking=self.masking, prefix=self.prefix)
            return partial(train_diffusion, objective=objective)
        from thoughtmix.training.language import train_language

        return partial(train_language, self.kind, **self.mixture())  # type: ignore[arg-type]  # checked by `train`

    def mixture(self) -> dict[str, Any]:
        """Fields of `MixtureOfThoughtsConfig`."""
        from thoughtmix.mixture import RECIPE

        if self.routes not in ("follow", "drawn"):
            raise InputError(f"routes is {self.routes!r}.", "Pass follow or drawn (--routes).")
        if self.routes == "follow" and self.segment:
            raise InputError("Routes that follow the text have no segments.", "Pass --routes drawn, or no --segment.")
        fields: dict[str, Any] = dict(RECIPE) if self.routes == "follow" else {}
        fields |= {"num_branches": self.branches, "segment_length": self.segment}
        chosen = {"modes": self.modes, "noise": self.noise}
        fields |= {name: value for name, value in chosen.items() if value is not None}
        if self.branches < 3:
            fields |= {"branches_max": self.branches, "branches_min": min(2, self.branches)}
        return fields


@app.command()
@with_options
def train(options: TrainOptions) -> int:
    """Train a Mixture-of-Thoughts transformer, its baseline, or a masked diffusion transformer, on a text."""
    kind, out = options.kind, options.out
    if kind not in KINDS:
        raise InputError(f"Unknown kind of model {kind!r}.", f"Pass one of {', '.join(KINDS)}.")
    if (out / "config.json").exists() and not options.resume:
        raise InputError(f"{out} already holds a model.", "Pass another --out, or --resume.")
    if (out / "training" / "state.pt").exists() and not options.resume:
        raise InputError(f"{out} holds a run that is not finished.", "Type the same with --resume, or another --out.")
    from thoughtmix.core.files import writing
    from thoughtmix.training.data import read_text, split

    shape, config, splits = options.shape(), options.config(), split(read_text(options.data))
    run = options.trainer()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with training_progress() as on_step:
        model, _, result = run(splits, shape, config, out, resume=options.resume, on_step=on_step)
    return _say(kind, model, result, out)


_EVALUATIONS = {
    "mixture": "{val_loss:.4f} nats a token (deterministic {val_loss_0:.4f})",
    "baseline": "{val_loss:.4f} nats a token (deterministic {val_loss_0:.4f})",
    "diffusion": "{val_loss:.4f} nats a token at most (with a prefix {val_given:.4f})",
}
_NEXT = {
    "mixture": "think --model {out} --thinker mixture",
    "baseline": "think --model {out} --thinker sampling",
    "diffusion": "diffuse --model {out}",
}


def _say(kind: str, model: Any, result: TrainingResult, out: Path) -> int:
    """Say how the run went and what to type next."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    if result.interrupted:
        print(f"thoughtmix: {stopped(result)}", file=sys.stderr)
        return 130
    total = sum(p.numel() for p in model.parameters())
    print(f"{kind}: {total:,} parameters, {result.steps} steps in {result.seconds:.0f} s", end="")
    print(" (stopped early)" if result.stopped_early else "")
    part = (
        "" if result.share == 1 else f", on {result.share:.0%} of the validation text, which is what the minutes allow"
    )
    print(f"validation loss {_EVALUATIONS[kind].format(**result.best) if result.best else ''}{part}")
    print(f"Wrote {out}. Now type: thoughtmix {_NEXT[kind].format(out=out)} 'ROMEO:'")
    return 0


@app.command()
def experiment(
    data: Annotated[str, option("A UTF-8 text file, or tiny-shakespeare to fetch that.")],
    out: Annotated[Path, option("Folder for models, texts, results.json and report.html.")],
    minutes: Annotated[float, option("That all of it takes here, within 10%; what cannot fit is refused.")] = 10.0,
    seeds: Annotated[int, option("Trainings of each of the two models.")] = 1,
    n: Annotated[int, option("Thoughts a prompt.", "-n", "--n")] = 8,
    tokens: Annotated[int, option("Tokens a thought.")] = 100,
    width: Annotated[int, option("Hidden size.")] = 128,
    layers: Annotated[int, option("Layers.")] = 4,
    steps: Annotated[int | None, option("Of every training, whatever the minutes say.")] = None,
    context: Annotated[int, option("Tokens a training window.")] = 64,
    batch_size: Annotated[int, option("Windows a step.")] = 12,
    branches: Annotated[int, option("Branches a layer.")] = 8,
    modes: Annotated[int, option("Learned ways to continue; 0: none.")] = 8,
    prompts: Annotated[int, option("Prompts, a third of them to choose settings on.")] = 24,
    ablations: Annotated[str, option("Trained too: all, none, or names separated by commas.")] = "all",
    seed: Annotated[int, option("Of the intervals.")] = 0,
) -> int:
    """Train a mixture and a baseline alike, explore with both, judge, and write a report. The same command goes on."""
    if prompts < 12:
        raise InputError(f"{prompts} prompts are too few.", "Pass --prompts 12 or more.")
    from thoughtmix.bench.experiment import Experiment, page
    from thoughtmix.bench.experiment_models import ABLATIONS, ExperimentConfig
    from thoughtmix.core.files import write_whole
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
