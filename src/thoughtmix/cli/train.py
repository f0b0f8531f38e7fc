"""`thoughtmix train`: train a small model of ours on a text."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.cli.fields import with_options
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
    data: Annotated[str, typer.Option(help="A UTF-8 text file, or tiny-shakespeare to fetch that.")]
    out: Annotated[Path, typer.Option(help="The folder to write; then: thoughtmix think --model FOLDER.")]
    steps: Annotated[int | None, typer.Option(help="Optimizer steps. Default: 2000, or what --minutes allow.")] = None
    minutes: Annotated[float | None, typer.Option(help="Train for about this long.")] = None
    batch_size: Annotated[int, typer.Option(help="Windows a step and process.")] = 32
    context: Annotated[int, typer.Option(help="Tokens a window.")] = 64
    layers: Annotated[int, typer.Option(help="Layers.")] = 4
    width: Annotated[int, typer.Option(help="Hidden size.")] = 128
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4
    vocabulary: Annotated[int, typer.Option(help="Byte-level BPE of this size; 0: characters.")] = 0
    branches: Annotated[int, typer.Option(help="Branches a layer (mixture).")] = 8
    routes: Annotated[str, typer.Option(help="follow (the text) or drawn (for a thought, blindly) (mixture).")] = (
        "follow"
    )
    modes: Annotated[int | None, typer.Option(help="Learned ways to continue (mixture). Default: 8; drawn: none.")] = (
        None
    )
    segment: Annotated[int, typer.Option(help="Tokens between draws of a route; 0: one route a text (mixture).")] = 0
    noise: Annotated[str | None, typer.Option(help="held, fresh or none (mixture). Default: none; drawn: held.")] = None
    weighting: Annotated[str, typer.Option(help="bound (exact) or uniform (diffusion).")] = "bound"
    masking: Annotated[str, typer.Option(help="count or time: how many tokens are hidden (diffusion).")] = "count"
    prefix: Annotated[float, typer.Option(help="Share of windows with a clean prefix (diffusion).")] = 0.5
    learning_rate: Annotated[float, typer.Option(help="The peak.")] = 1e-3
    ema: Annotated[float, typer.Option(help="Decay of averaged weights; 0: off.")] = 0.0
    patience: Annotated[int, typer.Option(help="Stop after so many evaluations without a better one; 0: never.")] = 0
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations and checkpoints.")] = 250
    precision: Annotated[str, typer.Option(help="auto, no or bf16.")] = "auto"
    optimizer: Annotated[str, typer.Option(help="adamw, or muon for the matrices.")] = "adamw"
    seed: Annotated[int, typer.Option(help="Of weights, batches and routes.")] = 0
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False

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
@with_options(TrainOptions)
def train(options: TrainOptions) -> int:
    """Train a Mixture-of-Thoughts transformer, its baseline, or a masked diffusion transformer, on a text."""
    kind, out = options.kind, options.out
    if kind not in KINDS:
        raise InputError(f"Unknown kind of model {kind!r}.", f"Pass one of {', '.join(KINDS)}.")
    if (out / "config.json").exists() and not options.resume:
        raise InputError(f"{out} already holds a model.", "Pass another --out, or --resume.")
    from thoughtmix.training.data import read_text, split

    shape, config, splits = options.shape(), options.config(), split(read_text(options.data))
    run = options.trainer()
    with progress() as on_step:
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
        print(f"thoughtmix: Stopped at step {result.steps}. Type the same with --resume to go on.", file=sys.stderr)
        return 130
    total = sum(p.numel() for p in model.parameters())
    print(f"{kind}: {total:,} parameters, {result.steps} steps in {result.seconds:.0f} s", end="")
    print(" (stopped early)" if result.stopped_early else "")
    print(f"validation loss {_EVALUATIONS[kind].format(**result.best) if result.best else ''}")
    print(f"Wrote {out}. Now type: thoughtmix {_NEXT[kind].format(out=out)} 'ROMEO:'")
    return 0


@contextmanager
def progress() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar on a terminal; elsewhere a line an evaluation. On stderr."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    words = TextColumn(
        "{task.completed}/{task.total}  loss {task.fields[loss]:.3f}  {task.fields[found]}"
        "{task.fields[speed]:.0f} tokens/s  {task.fields[left]:.0f} s left"
    )
    with Progress(BarColumn(), words, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, loss=float("nan"), found="", speed=0.0, left=0.0)

        def update(p: TrainingProgress) -> None:
            found = f"validation {p.last_evaluation['val_loss']:.3f}  " if "val_loss" in p.last_evaluation else ""
            fields: dict[str, Any] = {
                "loss": p.loss,
                "found": found,
                "speed": p.tokens_per_second,
                "left": p.seconds_left,
            }
            bar.update(task, completed=p.step, total=p.steps or None, **fields)

        yield update


def _lines() -> Callable[[TrainingProgress], None]:
    """Prints each evaluation once."""
    last: dict[str, float] = {}

    def line(p: TrainingProgress) -> None:
        nonlocal last
        if p.last_evaluation and p.last_evaluation != last:
            last = p.last_evaluation
            found = ", ".join(f"{name} {value:.4f}" for name, value in last.items())
            print(f"step {p.step}/{p.steps}: {found}, {p.tokens_per_second:.0f} tokens/s", file=sys.stderr)

    return line
