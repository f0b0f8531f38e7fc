"""`thoughtmix train`: a small model of ours on a text; `thoughtmix experiment`: a mixture beside its baseline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli.app import app
from thoughtmix.cli.flags import with_options
from thoughtmix.cli.options import option
from thoughtmix.cli.reporting import Reporter
from thoughtmix.cli.training import duration, stopped, training_words
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.training.config import TrainConfig
    from thoughtmix.training.language import Shape
    from thoughtmix.training.modes import ModeSearch
    from thoughtmix.training.trainer import TrainingProgress, TrainingResult

KINDS = ("mixture", "baseline", "diffusion")
_SIZE, _HOW = "The size of the model", "How it is trained"
_MIXTURE, _MODES, _DIFFUSION = "A mixture alone", "How its modes learn", "A diffusion model alone"


@dataclass(frozen=True)
class ModeOptions:
    """How the modes of a mixture learn."""

    objective: Annotated[str, option("best, sampled or marginal: what a window's modes are to make likely.")] = "best"
    candidates: Annotated[int, option("Modes tried for a window; 0: all.")] = 4
    lookahead: Annotated[int, option("Tokens of a continuation to try them by; 0: all of it.")] = 12
    plain_steps: Annotated[int, option("Steps without modes at first.")] = 0
    tail: Annotated[int, option("Last tokens of a prompt that each thought reads in its own mode.")] = 0

    def search(self) -> ModeSearch:
        from thoughtmix.training.modes import ModeSearch

        return ModeSearch(self.objective, self.candidates, self.lookahead, plain_steps=self.plain_steps)


@dataclass(frozen=True)
class TrainOptions:
    """What is typed after `thoughtmix train`."""

    kind: Annotated[str, typer.Argument(help="mixture, baseline (the same transformer with one branch) or diffusion.")]
    data: Annotated[str, option("A UTF-8 text file, or tiny-shakespeare to fetch that.", metavar="FILE")]
    out: Annotated[Path, option("The folder to write; then: thoughtmix think --model FOLDER.", metavar="FOLDER")]
    steps: Annotated[int | None, option("Optimizer steps.", default="2000, or what --minutes allow")] = None
    minutes: Annotated[float | None, option("Train for about this long.", default="what --steps take")] = None
    batch_size: Annotated[int, option("Windows a step and process.", group=_HOW)] = 32
    context: Annotated[int, option("Tokens a window.", group=_SIZE)] = 64
    layers: Annotated[int, option("Layers.", group=_SIZE)] = 4
    hidden_size: Annotated[int, option("Width of a layer.", group=_SIZE)] = 128
    heads: Annotated[int, option("Attention heads.", group=_SIZE)] = 4
    vocabulary: Annotated[int, option("Byte-level BPE of this size; 0: characters.", group=_SIZE)] = 0
    branches: Annotated[int, option("Branches a layer.", group=_MIXTURE)] = 8
    routes: Annotated[str, option("follow (the text) or drawn (for a thought, blindly).", group=_MIXTURE)] = "follow"
    modes: Annotated[
        int | None, option("Learned ways to continue.", group=_MIXTURE, default="8; of routes drawn: none")
    ] = None
    segment: Annotated[int, option("Tokens between draws of a route; 0: one route a text.", group=_MIXTURE)] = 0
    noise: Annotated[
        str | None, option("held, fresh or none.", group=_MIXTURE, default="none; of routes drawn: held")
    ] = None
    weighting: Annotated[str, option("bound (exact) or uniform.", group=_DIFFUSION)] = "bound"
    masking: Annotated[str, option("count or time: how many tokens are hidden.", group=_DIFFUSION)] = "count"
    prefix: Annotated[float, option("Share of windows with a clean prefix.", group=_DIFFUSION)] = 0.5
    learning_rate: Annotated[float, option("The peak.", group=_HOW)] = 1e-3
    ema: Annotated[float, option("Decay of averaged weights; 0: off.", group=_HOW)] = 0.0
    patience: Annotated[int, option("Stop after so many evaluations without a better one; 0: never.", group=_HOW)] = 0
    evaluate_every: Annotated[int, option("Steps between evaluations and checkpoints.", group=_HOW)] = 250
    precision: Annotated[str, option("auto, no or bf16.", group=_HOW)] = "auto"
    optimizer: Annotated[str, option("adamw, or muon for the matrices.", group=_HOW)] = "adamw"
    seed: Annotated[int, option("Of weights, batches and routes.", "-s", "--seed")] = 0
    resume: Annotated[bool, option("Go on from the last checkpoint in --out.", "--resume")] = False

    def shape(self) -> Shape:
        """The sizes of the model."""
        from thoughtmix.training.language import Shape

        if self.context < 2 or min(self.layers, self.hidden_size, self.heads, self.branches) < 1:
            raise InputError("A size is too small.", "Pass --context 2, --layers 1, --hidden-size 1, ... or more.")
        return Shape(self.layers, self.hidden_size, self.heads, self.context, self.vocabulary)

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

    def trainer(self, modes: ModeOptions) -> Callable[..., Any]:
        """What trains this kind of model, with what only that kind has."""
        if self.kind == "diffusion":
            from thoughtmix.diffusion.train import DiffusionObjective, train_diffusion

            objective = DiffusionObjective(weighting=self.weighting, masking=self.masking, prefix=self.prefix)
            return partial(train_diffusion, objective=objective)
        from thoughtmix.training.language import train_language

        fields = {**self.mixture(), "tail": modes.tail}
        return partial(train_language, self.kind, search=modes.search(), **fields)  # type: ignore[arg-type]  # checked

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
def train(options: TrainOptions, modes: Annotated[ModeOptions, _MODES], report: Reporter) -> int:
    """Train a Mixture-of-Thoughts transformer, its baseline, or a masked diffusion transformer, on a text."""
    kind, out = options.kind, options.out
    if kind not in KINDS:
        raise InputError(f"Unknown kind of model {kind!r}.", f"Pass one of {', '.join(KINDS)}.")
    if (out / "config.json").exists() and not options.resume:
        raise InputError(f"{out} already holds a model.", "Pass another --out, or --resume.")
    if (out / "training" / "state.pt").exists() and not options.resume:
        raise InputError(f"{out} holds a run that is not finished.", "Type the same with --resume, or another --out.")
    report.start("torch", "transformers")
    from thoughtmix.core.files import writing
    from thoughtmix.training.data import read_text, split

    shape, config, splits = options.shape(), options.config(), split(read_text(options.data))
    run = options.trainer(modes)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with report.work("Preparing the text") as say:
        on_step = training_words(report, say)
        model, _, result = run(splits, shape, config, out, resume=options.resume, on_step=on_step)
    return _say(kind, model, result, out, report)


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


def _say(kind: str, model: Any, result: TrainingResult, out: Path, report: Reporter) -> int:
    """Say how the run went and what to type next."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    if result.interrupted:
        report.warn(stopped(result))
        return 130
    total = sum(p.numel() for p in model.parameters())
    print(f"{kind}: {total:,} parameters, {result.steps} steps in {result.seconds:.0f} s", end="")
    print(" (stopped early)" if result.stopped_early else "")
    part = (
        "" if result.share == 1 else f", on {result.share:.0%} of the validation text, which is what the minutes allow"
    )
    print(f"validation loss {_EVALUATIONS[kind].format(**result.best) if result.best else ''}{part}")
    report.note(f"Wrote {out}")
    print(f"Now type: thoughtmix {_NEXT[kind].format(out=out)} 'ROMEO:'")
    return 0


@app.command()
@with_options
def experiment(
    data: Annotated[str, option("A UTF-8 text file, or tiny-shakespeare to fetch that.", metavar="FILE")],
    out: Annotated[Path, option("Folder for models, texts, results.json and report.html.", metavar="FOLDER")],
    minutes: Annotated[float, option("That all of it takes here, within 10%; what cannot fit is refused.")] = 10.0,
    seeds: Annotated[int, option("Trainings of each of the two models.")] = 1,
    n: Annotated[int, option("Thoughts a prompt.", "-n", "--n")] = 8,
    max_new_tokens: Annotated[int, option("Tokens a thought.")] = 100,
    hidden_size: Annotated[int, option("Width of a layer.", group=_SIZE)] = 128,
    layers: Annotated[int, option("Layers.", group=_SIZE)] = 4,
    steps: Annotated[int | None, option("Of every training.", group=_HOW, default="what the minutes allow")] = None,
    context: Annotated[int, option("Tokens a training window.", group=_SIZE)] = 64,
    batch_size: Annotated[int, option("Windows a step.", group=_HOW)] = 12,
    branches: Annotated[int, option("Branches a layer.", group=_SIZE)] = 8,
    modes: Annotated[int, option("Learned ways to continue; 0: none.", group=_SIZE)] = 8,
    limit: Annotated[int, option("Take so many prompts, a third of them to choose settings on.")] = 24,
    ablations: Annotated[str, option("Trained too: all, none, or names separated by commas.")] = "all",
    seed: Annotated[int, option("Of the intervals.", "-s", "--seed")] = 0,
    *,
    learning: Annotated[ModeOptions, _MODES],
    report: Reporter,
) -> int:
    """Train a mixture and a baseline alike, explore with both, judge, and write a report. The same command goes on."""
    if limit < 12:
        raise InputError(f"{limit} prompts are too few.", "Pass --limit 12 or more.")
    report.start("torch", "transformers")
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
        max_new_tokens,
        context,
        batch_size,
        layers,
        hidden_size,
        branches=branches,
        seed=seed,
        development=limit // 3,
        held_out=limit - limit // 3,
        mixture={**RECIPE, "modes": modes, "tail": learning.tail},
        search=learning.search(),
        ablations={"all": tuple(ABLATIONS), "none": ()}.get(ablations, tuple(ablations.split(","))),
    )
    try:
        with report.work("Reading the text") as say:
            result = Experiment(config, out, _Progress(report, say)).run()
    except KeyboardInterrupt:
        report.warn("Stopped. Type the same again to go on.")
        return 130
    write_whole(out / "results.json", json.dumps(result, indent=1, ensure_ascii=False))
    write_whole(out / "report.html", page(result))
    _summary(result)
    report.note(f"Wrote {out / 'report.html'} and {out / 'results.json'} in {result['seconds']:.0f} s")
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
    """A line for each thing that is begun, and how far training has come."""

    def __init__(self, report: Reporter, say: Callable[[str], None]) -> None:
        self.report, self.say, self.last = report, say, ""

    def __call__(self, title: str, training: TrainingProgress | None) -> None:
        if title != self.last:
            self.report.step(title)
            self.last = title
        done = ""
        if training is not None:
            left = duration(training.seconds_left)
            done = f": step {training.step:,} of {training.steps:,}, loss {training.loss:.3f}, {left} left"
        self.say(f"{title}{done}")
