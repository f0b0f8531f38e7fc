"""Train whoever takes part, each into its own folder; what is there already is loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from thoughtmix.core.types import write_whole
from thoughtmix.experiment.plan import TRAINED, Plan
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import Splits
from thoughtmix.training.language import Kind, Shape, active_parameters, encode, train_language
from thoughtmix.training.task import LanguageTask

if TYPE_CHECKING:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer

TRAINING_SHARE = 0.6  # of the minutes
_TIMED = 8


def shape_of(plan: Plan) -> Shape:
    return Shape(plan.layers, plan.width, plan.heads, plan.context)


def train_config(plan: Plan, steps: int, seed: int) -> TrainConfig:
    every = max(1, steps // 5)
    return TrainConfig(
        steps=steps,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        warmup=min(100, steps // 10 + 1),
        evaluate_every=every,
        save_every=every,
        seed=seed,
    )


def steps_for(plan: Plan, splits: Splits, tokenizer: Any, folder: Path) -> int:
    """Steps of every training, from the speed of the mixture here; decided once for a folder."""
    if plan.steps is not None:
        return plan.steps
    path = folder / "steps.json"
    if path.exists():
        return int(json.loads(path.read_text())["steps"])
    timings: list[float] = []

    def see(_: Any) -> None:
        timings.append(time.perf_counter())

    config = TrainConfig(steps=_TIMED, batch_size=plan.batch_size, evaluate_every=10**6, save_every=10**6)
    train_language(
        "mixture", splits, shape_of(plan), config, None, tokenizer=tokenizer, on_step=see, windows=1, **_own(plan)
    )
    each = (timings[-2] - timings[1]) / (_TIMED - 3)  # the first warms up, the last evaluates
    steps = max(20, int(60 * plan.minutes * TRAINING_SHARE / plan.trainings / each))
    write_whole(path, json.dumps({"steps": steps, "seconds_a_step": round(each, 4)}))
    return steps


def contender(
    name: str, plan: Plan, splits: Splits, tokenizer: Any, steps: int, folder: Path, on_step: Callable[[Any], None]
) -> tuple[MixtureOfThoughtsTransformer, dict[str, Any]]:
    """A trained model and the facts of its training. name: mixture-S, baseline-S (seed S), judge, or an ablation."""
    place = folder / "models" / name.replace(" ", "-")
    facts_path = place / "facts.json"
    if facts_path.exists():
        return _load(place), json.loads(facts_path.read_text())
    kind: Kind = "baseline" if name == "judge" or name.startswith("baseline") else "mixture"
    if name == "judge":  # another text, another seed: it must not share the contenders' memories
        splits = Splits(splits.held_out, splits.validation, "")
    seed = 1000 if name == "judge" else int(name.partition("-")[2]) if name[-1].isdigit() else 0
    more = {**_own(plan), **TRAINED.get(name, {})}
    model, _, done = train_language(
        kind, splits, shape_of(plan), train_config(plan, steps, seed), place,
        tokenizer=tokenizer, on_step=on_step, windows=32,
        resume=(place / "training" / "state.pt").exists(), **more,
    )  # fmt: skip
    if done.interrupted:
        raise KeyboardInterrupt
    task = LanguageTask(  # the validation text whole, or 256 windows spread over it
        encode(tokenizer, splits.train), encode(tokenizer, splits.validation), plan.context, windows=256
    )
    facts = {
        "kind": kind,
        "seed": seed,
        "steps": done.steps,
        "tokens": done.steps * plan.batch_size * plan.context,
        "seconds": round(done.seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "active": active_parameters(model.config),
        **task.evaluate(model),
        "log": [e for i, e in enumerate(done.log) if i % max(1, len(done.log) // 200) == 0 or "val_loss" in e],
    }
    write_whole(facts_path, json.dumps(facts))
    return model, facts


def _own(plan: Plan) -> dict[str, Any]:
    return {"num_branches": plan.branches, **plan.mixture}


def _load(place: Path) -> MixtureOfThoughtsTransformer:
    from thoughtmix.mixture.model import MixtureOfThoughtsTransformer
    from thoughtmix.models.quiet import quiet

    with quiet():
        model: MixtureOfThoughtsTransformer = MixtureOfThoughtsTransformer.from_pretrained(place, dtype=torch.float32)
    return model.eval().requires_grad_(False)
