"""`thoughtmix tune`: teach the thoughts of a graft."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtmix.cli import app
from thoughtmix.core.errors import InputError

if TYPE_CHECKING:
    from thoughtmix.graft.tuning.prompts import PromptContext
    from thoughtmix.graft.tuning.tune import TuningConfig
    from thoughtmix.models import LanguageModel
    from thoughtmix.training.config import TrainConfig


@app.command()
def tune(
    folder: Annotated[Path, typer.Argument(help="A graft: the folder that `thoughtmix graft` wrote.")],
    objective: Annotated[
        str, typer.Option(help="styles, modes, lm (needs --corpus), or calibrate (seconds, no gradient).")
    ] = "styles",
    prompts: Annotated[Path | None, typer.Option(help="Prompts to learn from, one a line. Default: built in.")] = None,
    limit: Annotated[int, typer.Option(help="Take only so many of the prompts; 0: all.")] = 0,
    contexts: Annotated[
        Path | None, typer.Option(help="TOML with the context of each branch. Default: eight that are built in.")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="A UTF-8 text (lm).")] = None,
    samples: Annotated[int, typer.Option(help="Answers of the teacher for each prompt and branch.")] = 2,
    own: Annotated[
        float,
        typer.Option(help="How far each context teaches alone where one answer is asked: 1 alone, 0 all together."),
    ] = 1.0,
    temperature: Annotated[float, typer.Option(help="Of the teacher's answers.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer to learn, in tokens.")] = 32,
    contrast: Annotated[float, typer.Option(help="Weight of keeping branches apart; 0: off.")] = 0.1,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps. Default: what --minutes allow.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for about this long. Default: 15.")] = None,
    batch_size: Annotated[int, typer.Option(help="Lessons a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="The peak.")] = 3e-3,
    evaluate_every: Annotated[int, typer.Option(help="Steps between evaluations and checkpoints.")] = 100,
    strength: Annotated[float, typer.Option(help="How far calibrated branches go at creativity 1.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of lessons, batches and draws.")] = 0,
    dtype: Annotated[str, typer.Option(help="Of the frozen base: auto, float32, bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> int:
    """Teach the thoughts of a graft; the base model stays as it is."""
    from thoughtmix.graft.tuning.calibrate import calibrate
    from thoughtmix.graft.tuning.distillation import DistillationConfig
    from thoughtmix.graft.tuning.prompts import built_in_contexts, built_in_prompts, read_contexts, read_prompts
    from thoughtmix.graft.tuning.tune import OBJECTIVES, TuningConfig
    from thoughtmix.models import load_model
    from thoughtmix.models.hardware import bf16_hardware
    from thoughtmix.training.config import TrainConfig

    calibrating = objective == "calibrate"
    if not calibrating and objective not in OBJECTIVES:
        raise InputError(f"Unknown objective {objective!r}.", f"Pass one of {', '.join([*OBJECTIVES, 'calibrate'])}.")
    distillation = DistillationConfig(samples, own, temperature, max_new_tokens=max_new_tokens)
    tuning = TuningConfig("styles" if calibrating else objective, contrast, distillation, corpus)
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} is no graft.", f"Type: thoughtmix graft SmolLM2-135M-Instruct --out {folder}")
    questions = read_prompts(prompts) if prompts else built_in_prompts(seed)
    questions = questions[: limit or len(questions)]
    taught = read_contexts(contexts) if contexts else built_in_contexts()
    config = TrainConfig(
        steps=steps,
        minutes=15.0 if steps is None and minutes is None else minutes,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup=20,
        weight_decay=0.0,
        evaluate_every=evaluate_every,
        save_every=evaluate_every,
        precision="no",
        seed=seed,
    )
    if dtype == "auto" and bf16_hardware():
        dtype = "bfloat16"  # the base only reads; the branches learn in float32
    lm = load_model(str(folder), dtype=dtype, device=device, on_progress=lambda text: print(text, file=sys.stderr))
    if not calibrating:
        return _train(lm, folder, questions, taught, tuning, config, resume)
    moved = calibrate(lm, folder, questions, taught, strength)
    print(f"{len(taught)} branches set from {moved} answers each. Now type: {_think(folder)}")
    return 0


def _train(
    lm: LanguageModel,
    folder: Path,
    prompts: list[str],
    contexts: list[PromptContext],
    tuning: TuningConfig,
    config: TrainConfig,
    resume: bool,
) -> int:
    from thoughtmix.cli.train import progress
    from thoughtmix.graft.tuning.tune import tune

    def report_samples(done: int, total: int) -> None:
        if done == total or done % max(1, total // 20) == 0:
            print(f"lessons: {done} of {total} prompts", file=sys.stderr)

    with progress() as report_step:
        done = tune(
            lm,
            folder,
            prompts,
            contexts,
            tuning,
            config,
            resume=resume,
            on_sample=report_samples,
            on_step=report_step,
        )
    if done.interrupted:
        print(f"thoughtmix: Stopped at step {done.steps}. Type the same with --resume to go on.", file=sys.stderr)
        return 130
    recovered = done.best["val_recovered"]
    print(f"{tuning.objective}: {done.steps} steps in {done.seconds:.0f} s; on prompts not learned from: ", end="")
    print(f"{done.best['val_loss']:.4f} nats a token, branch recovered from its answer {recovered:.0%} (chance 25%)")
    print(f"Wrote {folder}. Now type: {_think(folder)}")
    return 0


def _think(folder: Path) -> str:
    return f"thoughtmix think --model {folder} --thinker mixture 'Name a fruit.'"
