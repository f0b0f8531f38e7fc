"""A writer, a selector and a judge that learned three parts of one text, and prompts of a fourth.

Contiguous, in this order: writer the first 50%, selector the next 20%, judge the next 20%; the last 10% are prompts and
real text to compare with. So neither of the two readers saw what the writer learned, nor what the other one learned.
The readers have different seeds and sizes. All are trained here, once, into a folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from thoughtmix.diffusion.load import DiffusionModel, load_diffusion
from thoughtmix.diffusion.train import train_diffusion
from thoughtmix.models import LanguageModel, load_model
from thoughtmix.training.config import TrainConfig
from thoughtmix.training.data import Splits
from thoughtmix.training.language import Shape, train_language
from thoughtmix.training.trainer import TrainingProgress

CUTS = {"writer": (0.0, 0.5), "selector": (0.5, 0.7), "judge": (0.7, 0.9), "rest": (0.9, 1.0)}
READERS = {"selector": (Shape(4, 96, 4, 128), 1), "judge": (Shape(4, 128, 4, 128), 2)}
WRITER = Shape(4, 128, 4, 256)


def part(text: str, name: str) -> str:
    begin, end = (int(len(text) * share) for share in CUTS[name])
    return text[begin:end]


def splits_for(text: str, name: str) -> Splits:
    """The party's own part to learn; a tenth of it, its end, to evaluate on. The rest only says which letters exist."""
    own = part(text, name)
    cut = int(0.9 * len(own))
    return Splits(own[:cut], own[cut:], text)


def _see(name: str, every: int) -> Callable[[TrainingProgress], None]:
    def line(p: TrainingProgress) -> None:
        if p.step % every == 0:
            found = ", ".join(f"{k} {v:.3f}" for k, v in p.last_evaluation.items())
            print(f"{name} {p.step}/{p.steps}: loss {p.loss:.3f} {found}", file=sys.stderr, flush=True)

    return line


def writer(text: str, out: Path, steps: int) -> DiffusionModel:
    place = out / "writer"
    if not (place / "config.json").exists():
        config = TrainConfig(
            steps=steps,
            batch_size=8,
            learning_rate=4e-3,
            ema=0.99,
            optimizer="muon",
            precision="bf16",
            evaluate_every=500,
            save_every=500,
        )
        train_diffusion(
            splits_for(text, "writer"),
            WRITER,
            config,
            place,
            resume=(place / "training" / "state.pt").exists(),
            on_step=_see("writer", 500),
        )
    return load_diffusion(str(place))


def reader(name: str, text: str, out: Path, steps: int) -> LanguageModel:
    """The selector or the judge."""
    place = out / name
    if not (place / "config.json").exists():
        shape, seed = READERS[name]
        config = TrainConfig(
            steps=steps,
            batch_size=16,
            learning_rate=4e-3,
            ema=0.99,
            optimizer="muon",
            precision="bf16",
            seed=seed,
            evaluate_every=100,
            save_every=100,
        )
        train_language(
            "baseline",
            splits_for(text, name),
            shape,
            config,
            place,
            resume=(place / "training" / "state.pt").exists(),
            on_step=_see(name, 100),
            windows=64,
        )
    return load_model(str(place), dtype="float32")
