"""`thoughtmix train`: train a small model of ours on a text."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.training.config import TrainConfig
    from thoughtmix.training.data import Splits
    from thoughtmix.training.language import Shape
    from thoughtmix.training.trainer import Progress, Trained

KINDS = ("mixture", "baseline", "diffusion")


@app.command()
def train(
    kind: Annotated[str, typer.Argument(help="mixture, baseline (the same transformer with one branch) or diffusion.")],
    data: Annotated[str, typer.Option(help="A UTF-8 text file, or tiny-shakespeare to fetch that.")],
    out: Annotated[Path, typer.Option(help="The folder to write; then: thoughtmix think --model FOLDER.")],
    steps: Annotated[int | None, typer.Option(help="Optimizer steps. Default: 2000, or what --minutes allow.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for about this long.")] = None,
    batch_size: Annotated[int, typer.Option(help="Windows a step and process.")] = 32,
    context: Annotated[int, typer.Option(help="Tokens a window.")] = 64,
    layers: Annotated[int, typer.Option(help="Layers.")] = 4,
    width: Annotated[int, typer.Option(help="Hidden size.")] = 128,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    vocabulary: Annotated[int, typer.Option(help="Byte-level BPE of this size; 0: characters.")] = 0,
    branches: Annotated[int, typer.Option(help="Branches a layer (mixture).")] = 8,
    routes: Annotated[
        str, typer.Option(help="follow (the text) or drawn (for a thought, blindly) (mixture).")
    ] = "follow",
    modes: Annotated[
        int | None, typer.Option(help="Learned ways to continue (mixture). Default: 8; drawn: none.")
    ] = None,
    segment: Annotated[int, typer.Option(help="Tokens between draws of a route; 0: one route a text (mixture).")] = 0,
    noise: Annotated[
        str | None, typer.Option(help="held, fresh or none (mixture). Default: none; drawn: held.")
    ] = None,
    weighting: Annotated[str, typer.Option(help="bound (exact) or uniform (diffusion).")] = "bound",
    masking: Annotated[str, typer.Option(help="count or time: how many tokens are hidden (diffusion).")] = "count",
    prefix: Annotated[float, typer.Option(help="Share of windows with a clean prefix (diffusion).")] = 0.5,
    learning_rate: Annotated[float, typer.Option(help="The peak.")] = 1e-3,
    ema: Annotated[float, typer.Option(help="Decay of averaged weights; 0: off.")] = 0.0,
    patience: Annotated[int, typer.Option(help="Stop after so many evaluations without a better one; 0: never.")] = 0,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations and checkpoints.")] = 250,
    precision: Annotated[str, typer.Option(help="auto, no or bf16.")] = "auto",
    optimizer: Annotated[str, typer.Option(help="adamw, or muon for the matrices.")] = "adamw",
    seed: Annotated[int, typer.Option(help="Of weights, batches and routes.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
) -> int:
    """Train a Mixture-of-Thoughts transformer, its baseline, or a masked diffusion transformer, on a text."""
    if kind not in KINDS:
        raise InputError(f"Unknown kind of model {kind!r}.", f"Pass one of {', '.join(KINDS)}.")
    if (out / "config.json").exists() and not resume:
        raise InputError(f"{out} already holds a model.", "Pass another --out, or --resume.")
    from thoughtmix.training.config import TrainConfig
    from thoughtmix.training.data import read_text, split
    from thoughtmix.training.language import Shape, train_language

    if context < 2 or min(layers, width, heads, branches) < 1:
        raise InputError("A size is too small.", "Pass --context 2, --layers 1, --width 1, ... or more.")
    config = TrainConfig(
        steps=steps if steps is not None or minutes is not None else 2000,
        minutes=minutes,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema=ema,
        patience=patience,
        evaluate_every=evaluate_every,
        save_every=evaluate_every,
        precision=precision,
        optimizer=optimizer,
        seed=seed,
    )
    shape = Shape(layers, width, heads, context, vocabulary)
    splits = split(read_text(data))
    objective = {"weighting": weighting, "masking": masking, "prefix": prefix}
    if kind == "diffusion":
        with progress() as see:
            return _diffusion(splits, shape, config, out, resume, see, objective)
    more = _more(routes, branches, modes, segment, noise)
    with progress() as see:
        model, _, done = train_language(
            kind,  # type: ignore[arg-type]  # checked above
            splits,
            shape,
            config,
            out,
            resume=resume,
            on_step=see,
            **more,
        )
    best = (
        f"{done.best['val_loss']:.4f} nats a token (deterministic {done.best['val_loss_0']:.4f})" if done.best else ""
    )
    return _end(kind, model, done, out, best, f"think --model {out} --thinker {_thinker(kind)}")


def _diffusion(
    splits: Splits, shape: Shape, config: TrainConfig, out: Path, resume: bool, see: Any, objective: dict[str, Any]
) -> int:
    from thoughtmix.diffusion.train import DiffusionObjective, train_diffusion

    how = DiffusionObjective(**objective)
    model, _, done = train_diffusion(splits, shape, config, out, objective=how, resume=resume, on_step=see)
    found = done.best
    best = ""
    if found:
        best = f"{found['val_loss']:.4f} nats a token at most (with a prefix {found['val_given']:.4f})"
    return _end("diffusion", model, done, out, best, f"diffuse --model {out}")


def _end(kind: str, model: Any, done: Trained, out: Path, best: str, then: str) -> int:
    """Say how the run went and what to type next."""
    if os.environ.get("RANK", "0") != "0":
        return 0
    if done.interrupted:
        print(f"thoughtmix: Stopped at step {done.steps}. Type the same with --resume to go on.", file=sys.stderr)
        return 130
    total = sum(p.numel() for p in model.parameters())
    print(f"{kind}: {total:,} parameters, {done.steps} steps in {done.seconds:.0f} s", end="")
    print(" (stopped early)" if done.stopped_early else "")
    print(f"validation loss {best}")
    print(f"Wrote {out}. Now type: thoughtmix {then} 'ROMEO:'")
    return 0


def _more(routes: str, branches: int, modes: int | None, segment: int, noise: str | None) -> dict[str, Any]:
    """Fields of `MixtureOfThoughtsConfig`."""
    from thoughtmix.mixture import RECIPE

    if routes not in ("follow", "drawn"):
        raise InputError(f"routes is {routes!r}.", "Pass follow or drawn (--routes).")
    if routes == "follow" and segment:
        raise InputError("Routes that follow the text have no segments.", "Pass --routes drawn, or no --segment.")
    more: dict[str, Any] = {"num_branches": branches, "segment_length": segment}
    if routes == "follow":
        more = {**RECIPE, **more}
    more |= {name: value for name, value in (("modes", modes), ("noise", noise)) if value is not None}
    if branches < 3:
        more |= {"branches_max": branches, "branches_min": min(2, branches)}
    return more


def _thinker(kind: str) -> str:
    return "sampling" if kind == "baseline" else kind


@contextmanager
def progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; elsewhere a line an evaluation. On stderr."""
    if not sys.stderr.isatty():
        seen: list[Any] = [None]

        def line(p: Progress) -> None:
            if p.last_evaluation != seen[0] and p.last_evaluation:
                seen[0] = p.last_evaluation
                found = ", ".join(f"{k} {v:.4f}" for k, v in p.last_evaluation.items())
                print(f"step {p.step}/{p.steps}: {found}, {p.tokens_per_second:.0f} tokens/s", file=sys.stderr)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    words = TextColumn(
        "{task.completed}/{task.total}  loss {task.fields[loss]:.3f}  {task.fields[found]}"
        "{task.fields[speed]:.0f} tokens/s  {task.fields[left]:.0f} s left"
    )
    with Bar(BarColumn(), words, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=None, loss=float("nan"), found="", speed=0.0, left=0.0)

        def see(p: Progress) -> None:
            found = "".join(f"{k.removeprefix('val_loss') or 'validation'} {v:.3f}  " for k, v in
                            p.last_evaluation.items() if k == "val_loss")  # fmt: skip
            bar.update(
                task, completed=p.step, total=p.steps or None, loss=p.loss, found=found, speed=p.tokens_per_second,
                left=p.seconds_left,
            )  # fmt: skip

        yield see
